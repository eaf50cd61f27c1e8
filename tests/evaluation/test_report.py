import json
from dataclasses import replace

import pytest
from evaluation_files import scored_arm

from mlxtune.core.errors import InputError
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.report_builder import build, metric_rates
from mlxtune.evaluation.scorers import PASS, Score
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.verdict import CutAnswers
from mlxtune.present.blocks import Fact
from mlxtune.present.verdict import conclusion_facts


def _scored(*outcomes: bool | str) -> list[dict[str, Score]]:
    scores = [PASS if item is True else Score(False, item or "bad", "why") for item in outcomes]
    return [{"json": PASS, "contract": score} for score in scores]


def _report(base: list[bool], tuned: list[bool]) -> reports.EvaluationReport:
    return build(
        {"rows": len(base), "row_ids": [str(row) for row in range(len(base))]},
        [replace(scored_arm("base", _scored(*base)), cached=True), replace(scored_arm("tuned", _scored(*tuned)), seconds=2.5)],
    )


def test_rates_count_passes_and_rank_failure_kinds():
    json_rate, contract = metric_rates(_scored(True, "prose", "fence", "prose", True))
    assert (json_rate.hits, json_rate.total, json_rate.share, json_rate.failures) == (5, 5, 1.0, {})
    assert (contract.hits, contract.share) == (2, 0.4)
    assert list(contract.failures.items()) == [("prose", 2), ("fence", 1)]
    assert (contract.low, contract.high) == wilson(2, 5)


def test_every_metric_of_every_arm_is_compared_with_first():
    report = build({}, [scored_arm(name, _scored(True, False)) for name in ("base", "one", "two")])
    assert [(item.first, item.second, item.metric) for item in report.comparisons] == [
        ("base", "one", "json"), ("base", "one", "contract"), ("base", "two", "json"), ("base", "two", "contract"),
    ]  # fmt: skip


def test_rows_are_paired_by_position():
    report = _report([True, True, False, False], [True, False, True, False])
    paired = report.headline.paired
    assert (paired.both, paired.broken, paired.fixed, paired.neither) == (1, 1, 1, 1)


def test_verdict_names_what_else_got_worse():
    """A better format at the price of wrong answers is not simply better."""
    arms = [
        scored_arm(name, [row | {"length": Score(number, "wrong")} for row in _scored(*[contract] * 40)])
        for name, contract, number in (("base", False, True), ("tuned", True, False))
    ]
    verdict = build({"rows": 40}, arms).verdict
    assert (verdict.outcome, verdict.also_worse) == ("better", {"length": -1.0})
    assert Fact("also worse", "allowed length", "−100.0 points", "error") in conclusion_facts(build({"rows": 40}, arms))
    worse = build({"rows": 40}, [replace(arm, name=name) for arm, name in zip(arms[::-1], ("base", "tuned"), strict=True)])
    assert (worse.outcome, worse.verdict.also_worse) == ("worse", {})
    both = [
        scored_arm(name, [row | {"length": Score(passes, "wrong")} for row in _scored(*[passes] * 40)])
        for name, passes in (("base", True), ("tuned", False))
    ]
    cut = build({"rows": 40}, [scored_arm(arm.name, arm.scores, cut=40) for arm in both])
    assert (cut.outcome, cut.verdict.headline.outcome, cut.verdict.also_worse) == ("cannot_tell", "worse", {})
    assert [fact.note for fact in conclusion_facts(cut) if fact.label == "whole contract"] == ["versus base, worse"]


def test_a_baseline_that_was_cut_off_asks_for_a_higher_limit_first():
    base = scored_arm("base", _scored(*[False] * 20), cut=4, failed=1)
    facts = {"rows": 20, "decoding": {"kind": "greedy", "max_tokens": 8}}
    assert build(facts, [base]).verdict.cut == CutAnswers("base", 3, 20, 8, thinking=False)
    limit = Fact("token limit", "3 of 20 answers of base cut at 8 tokens", "raise evaluation.max_tokens", "warning")
    assert limit in conclusion_facts(build(facts, [base]))
    prompted = scored_arm("base+prompt", _scored(*[False] * 20))
    assert build(facts, [base, prompted]).verdict.cut.arm == "base"
    assert build(facts, [scored_arm("base", _scored(*[False] * 20), cut=2, failed=1)]).verdict.cut is None


def test_report_round_trips_through_disk(tmp_path):
    report = _report([False, True, False], [True, True, False])
    reports.save(report, tmp_path)
    assert reports.load(tmp_path) == report
    stored = json.loads((tmp_path / reports.FILE).read_text())
    assert stored["v"] == reports.VERSION
    assert report.facts["made"] == stored["facts"]["made"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"v": 5, "arms": 3, "facts": {"row_ids": []}}',
        '{"v": 5, "arms": ["x"], "comparisons": [], "facts": {"row_ids": []}, "verdict": {}}',
        '{"v": 5, "arms": [], "comparisons": [], "facts": {"row_ids": 5}, "verdict": {}}',
        '{"v": 1, "arms": [], "comparisons": [], "facts": {"row_ids": []}, "verdict": ""}',
    ],
)
def test_malformed_report_is_input_error(tmp_path, text):
    (tmp_path / reports.FILE).write_text(text)
    with pytest.raises(InputError, match=r"report\.json"):
        reports.load(tmp_path)


def test_missing_report_is_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        reports.load(tmp_path)
