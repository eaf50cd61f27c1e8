from __future__ import annotations

import json

from mlxtune.evaluation import selftest
from mlxtune.evaluation.scorers import HOLDS


def test_scorers_are_right_and_it_says_what_was_left_out(cli):
    ended = cli("selftest")
    assert ended.code == 0, ended.err
    assert ended.out.count("✓") == 5
    assert "--suites DIR" in ended.out


def test_one_document_in_json(cli):
    found = json.loads(cli("selftest", "--json").out)
    assert found["holds"] is True
    assert all(check["holds"] and check["right"] == check["total"] for check in found["checks"])


def test_wrong_scorer_ends_with_one_and_names_the_cases(cli, monkeypatch):
    monkeypatch.setattr(selftest, "json_fenced", lambda answer: HOLDS)
    ended = cli("selftest")
    assert ended.code == 1
    assert "✗ JSON: built-in cases: " in ended.out
    assert "The scorers are wrong on" in ended.err
    assert json.loads(cli("selftest", "--json").out)["holds"] is False


def test_folder_without_a_suite_is_bad_input(cli, place):
    ended = cli("selftest", "--suites", str(place))
    assert ended.code == 2
    assert "jsontestsuite" in ended.err
