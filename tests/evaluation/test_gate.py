from __future__ import annotations

import dataclasses

import pytest

from mlxtune.evaluation import report as reports
from mlxtune.evaluation.gate import refusal, reservation
from mlxtune.evaluation.regression import Regression
from mlxtune.evaluation.report import Measured, Report
from mlxtune.evaluation.scorers import HOLDS, Score

ROWS = 40
FAILS = Score(False, "bad", "why")


def _measured(name: str, hits: int, preferred: int) -> Measured:
    scored = [{"contract": HOLDS if at < hits else FAILS, "preference": HOLDS if at < preferred else FAILS} for at in range(ROWS)]
    return Measured(name, False, 1.0, scored)


def _report(*, headline: str = "contract", off_task: tuple[int, int] | None = None, **arms: tuple[int, int]) -> Report:
    told = {"regression": dataclasses.asdict(Regression(34, *off_task, (), ()))} if off_task else {}
    return reports.build({"rows": ROWS, "headline": headline, **told}, [_measured(name, *hits) for name, hits in arms.items()])


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 17)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 16)), "General behaviour dropped"),
        (_report(base=(20, 2), tuned=(22, 2)), "Cannot tell."),
        (_report(base=(30, 2), tuned=(2, 2)), "Worse."),
        (_report(base=(2, 2)), "The base is measured."),
        (_report(headline="preference", base=(20, 2), tuned=(21, 30)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "Worse. Whole contract fell"),
    ],
)
def test_only_what_is_better_at_nobodys_cost_is_promoted(report: Report, why: str) -> None:
    assert refusal(report).startswith(why)
    assert bool(refusal(report)) == bool(why)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 17)), ""),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(20, 15)), "off-task answers dropped from 20 to 15 of 34"),
        (_report(base=(20, 2), tuned=(22, 2), off_task=(20, 15)), ""),
        (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "the whole contract is kept less often"),
    ],
)
def test_what_is_better_and_not_to_be_promoted_is_told_in_a_few_words(report: Report, why: str) -> None:
    assert reservation(report) == why


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
def test_a_reports_word_is_the_one_that_its_verdict_begins_with(report: Report, word: str) -> None:
    assert report.word == word
    assert report.verdict.lower().startswith(f"{word}." if word else "the base is measured.")


def test_a_stronger_arm_without_training_closes_the_gate() -> None:
    report = reports.build({"rows": ROWS}, [_measured("base", 2, 0), _measured("base+prompt", 29, 0), _measured("tuned", 30, 0)])
    assert refusal(report).startswith("Cannot tell.")
