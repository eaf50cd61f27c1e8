import pytest

from mlxtune.evaluation.scorers import PASS
from mlxtune.evaluation.selftest import checks


def test_all_checks_pass_and_skipped_suites_are_mentioned(ok):
    result = ok("selftest")
    assert result.out.count("✓") == 7
    assert "--suites DIR" in result.out


def test_json_is_one_document(cli):
    document = cli("selftest", "--json").json
    assert document["holds"] is True
    assert all(check["holds"] and check["right"] == check["total"] for check in document["checks"])


@pytest.mark.slow
def test_a_wrong_scorer_exits_1_and_lists_the_cases(cli, monkeypatch):
    monkeypatch.setattr(checks, "score_extracted", lambda answer: PASS)
    result = cli("selftest")
    assert result.code == 1
    assert "✗ JSON: built-in cases: " in result.out
    assert "The scorers fail" in result.err
    assert cli("selftest", "--json").json["holds"] is False
