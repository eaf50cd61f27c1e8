from __future__ import annotations

import dataclasses

import pytest

from mlxtune.evaluation import report as reports
from mlxtune.evaluation.off_task.result import OffTaskResult
from mlxtune.evaluation.promotion import promotion_caveat, promotion_refusal
from mlxtune.evaluation.report import ArmScores, EvaluationReport
from mlxtune.evaluation.scorers import PASS, Score

ROWS = 40
FAILS = Score(False, "bad", "why")


def _measured(name: str, hits: int, preferred: int) -> ArmScores:
    scored = [{"contract": PASS if at < hits else FAILS, "preference": PASS if at < preferred else FAILS} for at in range(ROWS)]
    return ArmScores(name, False, 1.0, scored)


def _report(*, headline: str = "contract", off_task: tuple[int, int] | None = None, **arms: tuple[int, int]) -> EvaluationReport:
    facts = {"regression": dataclasses.asdict(OffTaskResult(34, *off_task, (), ()))} if off_task else {}
    return reports.build({"rows": ROWS, "headline": headline, **facts}, [_measured(name, *hits) for name, hits in arms.items()])


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 17)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 16)), "Failed the off-task check"),
        (_report(base=(20, 2), tuned=(22, 2)), "Cannot tell."),
        (_report(base=(30, 2), tuned=(2, 2)), "Worse."),
        (_report(base=(2, 2)), "The base is measured."),
        (_report(headline="preference", base=(20, 2), tuned=(21, 30)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "Worse. Whole contract fell"),
    ],
)
def test_only_improvement_without_regression_is_promoted(report: EvaluationReport, why: str) -> None:
    assert promotion_refusal(report).startswith(why)
    assert bool(promotion_refusal(report)) == bool(why)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 17)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 15)), "off-task answers dropped from 20 to 15 of 34"),
        (_report(base=(20, 2), tuned=(22, 2), off_task=(20, 15)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "fewer answers meet the whole contract"),
    ],
)
def test_caveat_explains_unpromoted_improvement(report: EvaluationReport, why: str) -> None:
    assert promotion_caveat(report) == why


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
    assert report.verdict.lower().startswith(f"{word}." if word else "the base is measured.")


def test_stronger_untrained_arm_blocks_promotion() -> None:
    report = reports.build({"rows": ROWS}, [_measured("base", 2, 0), _measured("base+prompt", 29, 0), _measured("tuned", 30, 0)])
    assert promotion_refusal(report).startswith("Cannot tell.")
