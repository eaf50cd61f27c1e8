from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation import planted, selftest
from mlxtune.evaluation.judge import report
from mlxtune.evaluation.judge.sentinels import SENTINELS
from mlxtune.evaluation.scorers import HOLDS

SUITES = Path(__file__).parents[3] / "shared" / "data"
needs_suites = pytest.mark.skipif(
    not (SUITES / selftest.SCHEMA_SUITE).is_dir(), reason="the conformance suites are not at ../shared/data"
)


def test_built_in_cases_hold():
    found = list(selftest.checks())
    assert [check.name.split(":")[0] for check in found] == ["JSON", "schema", "disclaimers", "planted rates", "judge"]
    for check in found:
        assert check.holds, check.wrong
        assert check.right == check.total > 0


@needs_suites
def test_conformance_suites_hold_whole():
    found = {check.name: check for check in selftest.checks(SUITES)}
    for check in found.values():
        assert check.holds, check.wrong
    totals = {name: check.total for name, check in found.items() if "suite" in name}
    assert totals == {
        "JSON suite: y_ accepted": 95,
        "JSON suite: n_ refused": 188,
        "JSON suite: i_ decided": 35,
        "schema suite: mandatory": 1280,
        "schema suite: optional": 162,
        "schema suite: formats": 764,
    }
    assert found["schema suite: mandatory"].note.startswith("19 apart: formats are asserted")


def test_a_scorer_that_says_yes_to_everything_is_found_out(monkeypatch):
    monkeypatch.setattr(selftest, "json_valid", lambda answer: HOLDS)
    monkeypatch.setattr(selftest, "right_disclaimer", lambda answer, rules, fuzzy: HOLDS)
    wrong = {check.name: len(check.wrong) for check in selftest.checks() if check.wrong}
    refused = [kind for _, kind, *_ in planted.JSON if kind]
    assert wrong["JSON: built-in cases"] == len(refused) + len(planted.CUT_OFF)
    assert wrong["disclaimers: built-in cases"] == sum(bool(kind) for _, *kinds in planted.DISCLAIMERS for kind in kinds)


def test_a_scorer_that_raises_is_wrong_and_stops_nothing(monkeypatch):
    def broken(answer):
        raise RuntimeError("oh")

    monkeypatch.setattr(selftest, "json_fenced", broken)
    found = list(selftest.checks())
    assert len(found) == 5
    assert all("RuntimeError: oh" in case for case in found[0].wrong)


def test_planted_rates_that_are_off_are_named(monkeypatch):
    contract, answers, expected = planted.planted()
    monkeypatch.setattr(planted, "planted", lambda: (contract, answers, expected | {"json": 100}))
    assert [check.wrong for check in selftest.checks() if check.name == "planted rates"] == [("json: 76, not 100",)]


def test_suites_in_part_or_broken(tmp_path):
    with pytest.raises(InputError, match="has neither"):
        list(selftest.checks(tmp_path))
    suite = tmp_path / selftest.JSON_SUITE
    suite.mkdir()
    (suite / "y_wrong.json").write_text("{'a': 1}")
    (suite / "n_wrong.json").write_text("{}")
    (suite / "i_any.json").write_bytes(b"\xff")
    found = {check.name: check for check in selftest.checks(tmp_path)}
    assert found["JSON suite: y_ accepted"].wrong == ("y_wrong.json",)
    assert found["JSON suite: n_ refused"].wrong == ("n_wrong.json",)
    assert found["JSON suite: i_ decided"].holds
    (suite / "i_any.json").unlink()
    assert not {check.name: check for check in selftest.checks(tmp_path)}["JSON suite: i_ decided"].holds  # nothing is no proof


def test_schema_suite_reads_its_remotes_from_its_folder(tmp_path):
    suite = tmp_path / selftest.SCHEMA_SUITE
    tests = suite / "tests" / "draft2020-12"
    for folder in ("optional/format", "."):
        (tests / folder).mkdir(parents=True, exist_ok=True)
    (suite / "remotes" / "a").mkdir(parents=True)
    (suite / "remotes" / "a" / "n.json").write_text('{"type": "integer"}')
    group = {
        "description": "remote",
        "schema": {"$ref": "http://localhost:1234/a/n.json"},
        "tests": [{"description": "one", "data": 1, "valid": True}, {"description": "text", "data": "1", "valid": True}],
    }
    for name in ("ref.json", "optional/more.json", "optional/format/date.json"):
        (tests / name).write_text(json.dumps([group]))
    found = {check.name: check for check in selftest.checks(tmp_path)}
    assert found["schema suite: mandatory"].wrong == ("ref: remote: text",)
    assert (found["schema suite: formats"].right, found["schema suite: formats"].total) == (1, 2)


def test_a_judge_that_is_fooled_and_not_called_broken_is_wrong(monkeypatch):
    monkeypatch.setattr(report, "_passed", lambda call, verdict: False)
    found = {check.name: check for check in selftest.checks()}["judge: sentinels"]
    assert len(found.wrong) == 4 * len(SENTINELS)
