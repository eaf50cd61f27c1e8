from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.answer_statistics import AnswerStatistics
from mlxtune.evaluation.report import ArmScores
from mlxtune.evaluation.scorers import PASS, Score
from mlxtune.evaluation.statistics.intervals import wilson


def _scored(*outcomes: bool | str) -> list[dict[str, Score]]:
    scores = [PASS if item is True else Score(False, item or "bad", "why") for item in outcomes]
    return [{"json": PASS, "contract": score} for score in scores]


def _report(base: list[bool], tuned: list[bool]) -> reports.EvaluationReport:
    return reports.build(
        {"rows": len(base)}, [ArmScores("base", True, 1.0, _scored(*base)), ArmScores("tuned", False, 2.5, _scored(*tuned))]
    )


def test_rates_count_passes_and_rank_failure_kinds():
    json_rate, contract = reports.metric_rates(_scored(True, "prose", "fence", "prose", True))
    assert (json_rate.hits, json_rate.total, json_rate.share, json_rate.failures) == (5, 5, 1.0, {})
    assert (contract.hits, contract.share) == (2, 0.4)
    assert list(contract.failures.items()) == [("prose", 2), ("fence", 1)]
    assert (contract.low, contract.high) == wilson(2, 5)


def test_empty_outputs_have_no_rates():
    with pytest.raises(ValueError, match="no"):
        reports.metric_rates([])


def test_every_metric_of_every_arm_is_compared_with_first():
    report = reports.build({}, [ArmScores(name, False, 0.0, _scored(True, False)) for name in ("base", "one", "two")])
    assert [(item.first, item.second, item.metric) for item in report.comparisons] == [
        ("base", "one", "json"), ("base", "one", "contract"), ("base", "two", "json"), ("base", "two", "contract"),
    ]  # fmt: skip


def test_rows_are_paired_by_position():
    report = _report([True, True, False, False], [True, False, True, False])
    assert report.headline
    paired = report.headline.paired
    assert (paired.both, paired.broken, paired.fixed, paired.neither) == (1, 1, 1, 1)


def test_verdict_uses_whole_contract():
    report = _report([False] * 40, [True] * 40)
    assert report.headline
    assert (report.headline.metric, report.headline.outcome) == ("contract", "better")
    assert report.verdict.startswith("Better. Whole contract: +100.0 points")


def test_verdict_names_what_else_got_worse():
    """A better format at the price of wrong answers is not simply better."""
    arms = [
        ArmScores(name, False, 1.0, [row | {"number": Score(number, "wrong")} for row in _scored(*[contract] * 40)])
        for name, contract, number in (("base", False, True), ("tuned", True, False))
    ]
    verdict = reports.build({"rows": 40}, arms).verdict
    assert verdict.startswith("Better. Whole contract: +100.0 points")
    assert verdict.endswith("Worse, though: final number (−100.0 points).")
    worse = reports.build({"rows": 40}, [replace(arm, name=name) for arm, name in zip(arms[::-1], ("base", "tuned"), strict=True)])
    assert worse.outcome == "worse"
    assert "though" not in worse.verdict
    both = [
        ArmScores(name, False, 1.0, [row | {"number": Score(passes, "wrong")} for row in _scored(*[passes] * 40)])
        for name, passes in (("base", True), ("tuned", False))
    ]
    cut = reports.build({"rows": 40}, [replace(arm, answers=AnswerStatistics(40, 0, 99)) for arm in both])
    assert cut.outcome == "cannot tell"
    assert "At this limit: Worse." in cut.verdict
    assert "though" not in cut.verdict


def test_base_only_report_has_no_comparison():
    report = reports.build({}, [ArmScores("base", False, 0.0, _scored(True))])
    assert report.comparisons == ()
    assert report.headline is None
    assert "base has been evaluated" in report.verdict


def test_a_baseline_that_was_cut_off_asks_for_a_higher_limit_first() -> None:
    base = ArmScores("base", False, 1.0, _scored(*[False] * 20), answers=AnswerStatistics(4, 2, 99, failed=1))
    facts = {"rows": 20, "decoding": {"kind": "greedy", "max_tokens": 8}}
    assert reports.build(facts, [base]).verdict.endswith(
        " First, though, raise evaluation.max_tokens and evaluate again: 3 of 20 answers of base were cut off at 8 tokens and might "
        "still have passed."
    )
    prompted = replace(base, name="base+prompt", answers=AnswerStatistics(0, 0, 99))
    assert "3 of 20 answers of base were" in reports.build(facts, [base, prompted]).verdict
    for few in (AnswerStatistics(2, 3, 99, failed=1), None):
        assert "raise" not in reports.build(facts, [replace(base, answers=few)]).verdict


def test_arms_with_different_rows_are_refused():
    with pytest.raises(ValueError, match="zip"):
        _report([True], [True, False])


def test_report_round_trips_through_disk(tmp_path):
    report = _report([False, True, False], [True, True, False])
    reports.save(report, tmp_path)
    assert reports.load(tmp_path) == report
    stored = json.loads((tmp_path / reports.FILE).read_text())
    assert stored["v"] == 1
    assert report.facts["made"] == stored["facts"]["made"]


def test_arm_rate_is_found_by_name():
    arm = _report([True], [False]).arms[1]
    assert (arm.name, arm.cached, arm.seconds, arm.rate("contract").hits) == ("tuned", False, 2.5, 0)
    with pytest.raises(KeyError):
        arm.rate("nothing")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "5",
        "{}",
        '{"arms": 3}',
        '{"arms": [{"arm": "x"}], "comparisons": [], "facts": {}, "verdict": ""}',
        '{"arms": ["x"], "comparisons": [], "facts": {}, "verdict": ""}',
    ],
)
def test_malformed_report_is_input_error(tmp_path, text):
    (tmp_path / reports.FILE).write_text(text)
    with pytest.raises(InputError, match=r"report\.json"):
        reports.load(tmp_path)


def test_missing_report_is_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        reports.load(tmp_path)
