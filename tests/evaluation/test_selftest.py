import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation.judge import judge_report
from mlxtune.evaluation.judge.judge_session import SENTINELS
from mlxtune.evaluation.scorers import PASS
from mlxtune.evaluation.selftest import checks

SUITES = Path(__file__).parents[3] / "shared" / "data"
needs_suites = pytest.mark.skipif(
    not (SUITES / checks.SCHEMA_SUITE).is_dir(), reason="the conformance suites are not at ../shared/data"
)


def test_built_in_cases_pass():
    results = list(checks.run_checks())
    assert [check.name.split(":")[0] for check in results] == [
        "JSON",
        "schema",
        "disclaimers",
        "texts",
        "correct",
        "known rates",
        "judge",
    ]
    for check in results:
        assert check.passed, check.wrong
        assert check.right == check.total > 0


@needs_suites
def test_conformance_suites_pass_completely():
    results = {check.name: check for check in checks.run_checks(SUITES)}
    for check in results.values():
        assert check.passed, check.wrong
    totals = {name: check.total for name, check in results.items() if "suite" in name}
    assert totals == {
        "JSON suite: y_ accepted": 95,
        "JSON suite: n_ refused": 188,
        "JSON suite: i_ decided": 35,
        "schema suite: mandatory": 1280,
        "schema suite: optional": 162,
        "schema suite: formats": 764,
    }
    assert results["schema suite: mandatory"].note.startswith("19 excluded: formats are validated")


def test_scorer_that_always_passes_is_detected(monkeypatch):
    monkeypatch.setattr(checks, "score_json", lambda answer: PASS)
    monkeypatch.setattr(checks, "score_disclaimers", lambda answer, rules, fuzzy: PASS)
    wrong = {check.name: len(check.wrong) for check in checks.run_checks() if check.wrong}
    refused = [output for kind, _, outputs in checks.JSON if kind for output in outputs]
    assert wrong["JSON: built-in cases"] == len(refused) + len(checks.CUT_OFF)
    assert wrong["disclaimers: built-in cases"] == sum(
        len(outputs) * sum(map(bool, kinds)) for kinds, outputs in checks.DISCLAIMERS
    )


def test_raising_scorer_is_reported_without_stopping(monkeypatch):
    def broken(answer):
        raise RuntimeError("oh")

    monkeypatch.setattr(checks, "score_extracted", broken)
    results = list(checks.run_checks())
    assert len(results) == 7
    assert all("RuntimeError: oh" in case for case in results[0].wrong)


def test_wrong_planted_rates_are_named(monkeypatch):
    contract, answers, expected = checks.known_rates()
    monkeypatch.setattr(checks, "known_rates", lambda: (contract, answers, expected | {"json": 100}))
    assert [check.wrong for check in checks.run_checks() if check.name == "known rates"] == [("json: 76 ≠ 100",)]


@pytest.mark.slow
def test_incomplete_or_broken_suites_are_handled(tmp_path):
    with pytest.raises(InputError, match="has neither"):
        list(checks.run_checks(tmp_path))
    suite = tmp_path / checks.JSON_SUITE
    suite.mkdir()
    (suite / "y_wrong.json").write_text("{'a': 1}")
    (suite / "n_wrong.json").write_text("{}")
    (suite / "i_any.json").write_bytes(b"\xff")
    results = {check.name: check for check in checks.run_checks(tmp_path)}
    assert results["JSON suite: y_ accepted"].wrong == ("y_wrong.json",)
    assert results["JSON suite: n_ refused"].wrong == ("n_wrong.json",)
    assert results["JSON suite: i_ decided"].passed
    (suite / "i_any.json").unlink()
    assert not {check.name: check for check in checks.run_checks(tmp_path)}[
        "JSON suite: i_ decided"
    ].passed  # an empty suite proves nothing


def test_schema_suite_reads_remotes_from_its_folder(tmp_path):
    suite = tmp_path / checks.SCHEMA_SUITE
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
    results = {check.name: check for check in checks.run_checks(tmp_path)}
    assert results["schema suite: mandatory"].wrong == ("ref: remote: text",)
    assert (results["schema suite: formats"].right, results["schema suite: formats"].total) == (1, 2)


def test_fooled_judge_not_marked_unreliable_fails_selftest(monkeypatch):
    monkeypatch.setattr(judge_report, "_sentinel_faults", lambda *_: {})
    results = {check.name: check for check in checks.run_checks()}["judge: sentinels"]
    assert len(results.wrong) == 4 * len(SENTINELS)
