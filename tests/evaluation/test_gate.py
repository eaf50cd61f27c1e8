from __future__ import annotations

import pytest

from mlxtune.evaluation import report as reports
from mlxtune.evaluation.promotion import off_task_hint, promotion_caveat, promotion_refusal, unmeasured_forgetting
from mlxtune.evaluation.report import ArmScores, EvaluationReport
from mlxtune.evaluation.scorers import PASS, Score

ROWS = 40
FAILS = Score(False, "bad", "why")


def _measured(name: str, hits: int, preferred: int) -> ArmScores:
    scored = [{"contract": PASS if at < hits else FAILS, "preference": PASS if at < preferred else FAILS} for at in range(ROWS)]
    return ArmScores(name, False, 1.0, scored)


def _report(*, headline: str = "contract", off_task: tuple[int, int] | None = None, **arms: tuple[int, int]) -> EvaluationReport:
    facts: reports.ReportFacts = {}
    if off_task:  # off-task answers that broke and were fixed, of 300
        broken, fixed = off_task
        ids = {"broken": [f"b{at}" for at in range(broken)], "fixed": [f"f{at}" for at in range(fixed)]}
        facts["regression"] = {"total": 300, "base": 200, "tuned": 200 - broken + fixed, **ids}
    return reports.build({"rows": ROWS, "headline": headline, **facts}, [_measured(name, *hits) for name, hits in arms.items()])


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(10, 8)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 20)), "Off-task accuracy: cannot tell."),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 5)), "Off-task accuracy: dropped."),
        (_report(base=(20, 2), tuned=(22, 2)), "Cannot tell."),
        (_report(base=(30, 2), tuned=(2, 2)), "Worse."),
        (_report(base=(2, 2)), "The base has been evaluated."),
        (_report(headline="preference", base=(20, 2), tuned=(21, 30)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "Worse. Whole contract: −"),
    ],
)
def test_only_improvement_without_regression_is_promoted(report: EvaluationReport, why: str) -> None:
    assert promotion_refusal(report).startswith(why)
    assert bool(promotion_refusal(report)) == bool(why)


@pytest.mark.parametrize(
    ("report", "is_unmeasured"),
    [
        (_report(base=(2, 2), tuned=(30, 2)), True),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(10, 8)), False),
        (_report(base=(2, 2)), False),
        (reports.build({"rows": ROWS}, [_measured("base", 2, 2), _measured("base+kshot", 30, 2)]), False),
    ],
)
def test_a_comparison_without_off_task_prompts_says_so(report: EvaluationReport, is_unmeasured: bool) -> None:
    assert bool(unmeasured_forgetting(report)) == is_unmeasured


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2), off_task=(10, 8)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 20)), "off-task accuracy may have dropped by 5 points or more"),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 5)), "off-task accuracy dropped from 66.7% to 58.3%"),
        (_report(base=(20, 2), tuned=(22, 2), off_task=(30, 5)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "fewer answers meet the whole contract"),
    ],
)
def test_caveat_explains_unpromoted_improvement(report: EvaluationReport, why: str) -> None:
    assert promotion_caveat(report) == why


@pytest.mark.parametrize(("off_task", "accepted"), [((10, 8), True), ((30, 20), True), ((30, 5), False)])
def test_cannot_tell_can_be_accepted(off_task: tuple[int, int], accepted: bool) -> None:
    report = _report(base=(2, 2), tuned=(30, 2), off_task=off_task)
    assert bool(promotion_refusal(report, accept_unknown=True)) != accepted
    assert ("data.replay" in off_task_hint(report)) == bool(promotion_refusal(report))
    assert ("--accept-unknown" in off_task_hint(report)) == (off_task == (30, 20))


@pytest.mark.parametrize(
    ("report", "word"),
    [
        (_report(base=(2, 2)), ""),
        (_report(base=(2, 2), tuned=(30, 2)), "better"),
        (_report(base=(20, 2), tuned=(22, 2)), "cannot tell"),
        (_report(headline="preference", base=(20, 2), tuned=(21, 30)), "better"),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "worse"),
    ],
)
def test_outcome_matches_verdict_first_words(report: EvaluationReport, word: str) -> None:
    assert report.outcome == word
    assert report.verdict.lower().startswith(f"{word}." if word else "the base has been evaluated.")


def test_stronger_untrained_arm_blocks_promotion() -> None:
    report = reports.build({"rows": ROWS}, [_measured("base", 2, 0), _measured("base+prompt", 29, 0), _measured("tuned", 30, 0)])
    assert promotion_refusal(report).startswith("Cannot tell.")
