"""What to do after a verdict."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import MlxtuneError
from mlxtune.evaluation.arms import BASE, is_tuned
from mlxtune.evaluation.evidence import RECIPE
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.report import load as load_report
from mlxtune.evaluation.scope import Scope
from mlxtune.evaluation.scorers.preference import PREFERENCE
from mlxtune.evaluation.statistics.power import needed_rows
from mlxtune.evaluation.verdict import Verdict
from mlxtune.recipe import load
from mlxtune.runs import registry

_MOST_ROWS = 10  # times the evaluated rows; to prove a change that needs more is not worth it


@dataclass(frozen=True)
class FollowUp:
    """What to do after a verdict."""

    step: Literal["read_wider", "train_longer", "evaluate_examples", "evaluate_more_rows", "add_rows"]
    run: str = ""
    """The evaluation of the same and more rows, whose verdict counts."""
    verdict: Verdict | None = None
    """The verdict of that evaluation."""
    rows: int = 0
    """How many more rows it has, or how many rows this one was limited to."""
    share: float = 0.0
    """The share of the training rows that the run has used."""


def follow_up(report: EvaluationReport, folder: Path) -> tuple[FollowUp, ...]:
    """Return what to do after reading the verdict of the evaluation in ``folder``."""
    workspace, scope, run_id = folder.parent.parent, Scope.of(report), str(report.facts.get("run", ""))
    for run in registry.list_runs(workspace, "eval"):
        with suppress(MlxtuneError):
            other = load_report(run.folder)
            if scope.is_part_of(Scope.of(other)):
                return (FollowUp("read_wider", run.id, other.verdict, len(Scope.of(other).rows - scope.rows)),)
    state = registry.Run(workspace / registry.RUN_KINDS["train"].folder / run_id).state() if run_id else None
    longer = train_longer(state.epochs, report.outcome) if state else None
    return tuple(step for step in (longer, what_to_evaluate(report, folder)) if step)


def train_longer(epochs: float, outcome: str) -> FollowUp | None:
    """Return advice to train longer if a run of ``epochs`` has used only a part of its rows and its adapter is not better."""
    return None if outcome == "better" or not 0 < epochs < 1 else FollowUp("train_longer", share=epochs)


def what_to_evaluate(report: EvaluationReport, folder: Path) -> FollowUp | None:
    """Return what to evaluate next: more rows for a verdict, or examples in the prompt; ``None`` if neither would help."""
    untrained = [arm.name for arm in report.arms if not is_tuned(arm.name)]
    if report.outcome == "better" and untrained == [BASE] and report.headline_metric != PREFERENCE:
        return FollowUp("evaluate_examples")
    if (
        report.headline is None or report.outcome != "cannot_tell" or report.verdict.cut
    ):  # then the verdict says which limit to raise
        return None
    paired = report.headline.paired
    if not paired.fixed + paired.broken or (needed_rows(paired) or 0) > _MOST_ROWS * paired.total:
        return None  # nothing changed, or too little
    with suppress(MlxtuneError):
        if report.facts["rows"] == load(folder / RECIPE).evaluation.rows:
            return FollowUp("evaluate_more_rows", rows=report.facts["rows"])
    return FollowUp("add_rows")
