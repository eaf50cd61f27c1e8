"""What to do after a verdict."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import plural
from mlxtune.evaluation.arms import BASE, KSHOT, is_tuned
from mlxtune.evaluation.evidence import RECIPE
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.report import load as load_report
from mlxtune.evaluation.scope import Scope
from mlxtune.evaluation.scorers.preference import PREFERENCE
from mlxtune.evaluation.statistics.power import needed_rows
from mlxtune.recipe import load
from mlxtune.runs import registry

_MOST_ROWS = 10  # times the evaluated rows; to prove a change that needs more is not worth it


def follow_up(report: EvaluationReport, folder: Path) -> str:
    """Return what to do after reading the verdict of the evaluation in ``folder``, or an empty text."""
    workspace, scope, run_id = folder.parent.parent, Scope.of(report), str(report.facts.get("run", ""))
    for run in registry.list_runs(workspace, "eval"):
        with suppress(MlxtuneError):
            other = load_report(run.folder)
            if scope.is_part_of(Scope.of(other)):
                more = plural(len(Scope.of(other).rows - scope.rows), "other row")
                return f"{run.id} evaluated the same and {more}, so its verdict counts: {other.verdict}"
    state = registry.Run(workspace / registry.RUN_KINDS["train"].folder / run_id).state() if run_id else None
    longer = train_longer(state.epochs, report.outcome) if state else ""
    return f"{longer} {what_to_evaluate(report, folder)}".strip()


def train_longer(epochs: float, outcome: str) -> str:
    """Return advice to train longer if a run of ``epochs`` has used only a part of its rows and its adapter is not better."""
    if outcome == "better" or not 0 < epochs < 1:
        return ""
    return f"The run used only {epochs:.0%} of the training rows, so a longer one may help (training.steps)."


def what_to_evaluate(report: EvaluationReport, folder: Path) -> str:
    """Return what to evaluate next: more rows for a verdict, or examples in the prompt; or an empty text if neither would help."""
    untrained = [arm.name for arm in report.arms if not is_tuned(arm.name)]
    if report.outcome == "better" and untrained == [BASE] and report.headline_metric != PREFERENCE:
        return f"Examples in the prompt may do as well without training: evaluate {KSHOT}, too."
    if report.headline is None or report.outcome != "cannot tell" or report.cut_arm:  # then the verdict says which limit to raise
        return ""
    paired = report.headline.paired
    if not paired.fixed + paired.broken or (needed_rows(paired) or 0) > _MOST_ROWS * paired.total:
        return ""  # nothing changed, or too little
    with suppress(MlxtuneError):
        if report.facts["rows"] == load(folder / RECIPE).evaluation.rows:
            limit = f"evaluation.rows limited them to {report.facts['rows']:,}, whose answers are kept"
            return f"To find out, evaluate more of the held-out rows: {limit}. If there are too few, add rows."
    return "To find out, add rows or hold out more of them (data.holdout), then train and evaluate again."
