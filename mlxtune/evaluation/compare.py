"""Two evaluations against each other, row by row, if they were made on the same terms. No mlx here: faces read it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.evaluation import report as reports
from mlxtune.evaluation import terms
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.contract import LABELS, Contract
from mlxtune.evaluation.evidence import Evidence, load_evidence
from mlxtune.evaluation.preference import METRIC as PREFERENCE
from mlxtune.evaluation.report import FILE, Report, strongest
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.verdict import HEADLINE, Comparison, compare, correct, sentence
from mlxtune.runs import registry
from mlxtune.runs.registry import Run


@dataclass(frozen=True)
class Side:
    """An evaluation, and the arm that speaks for it: what was tuned, or else the strongest of those that were not."""

    folder: Path
    report: Report
    arm: str

    @property
    def name(self) -> str:
        return f"{self.arm} of {self.folder.name}"


@dataclass(frozen=True)
class Contrast:
    """The second side against the first on each metric of their contract, and what that means."""

    first: str
    second: str
    rows: int
    comparisons: tuple[Comparison, ...]
    verdict: str

    @property
    def headline(self) -> Comparison:
        """The comparison of the whole contract, the last one."""
        return self.comparisons[-1]


def side(workspace: Path, which: str) -> Side:
    """The evaluation that ``which`` names: by its folder or id, or by the run that it measured, the newest one then.

    Raises ``InputError``.
    """
    folder = _evaluation(workspace, which)
    report = reports.load(folder)
    last = report.arms[-1]
    return Side(folder, report, last.arm if last.arm == TUNED else strongest(report.arms, HEADLINE).arm)


def contrast(first: Side, second: Side) -> Contrast:
    """``second`` against ``first``, both scored now. Raises ``InputError`` when the terms differ, a side does not keep its outputs, or both are one."""
    if first.folder.resolve() == second.folder.resolve():
        raise InputError(
            f"Both sides are the same evaluation, {first.folder.name}, so there is nothing to tell.",
            mend="Name another evaluation, or another run.",
        )
    terms.require_same(first.folder.name, first.report.facts, second.folder.name, second.report.facts)
    before, after = (load_evidence(one.folder) for one in (first, second))
    contract = Contract.of(after.recipe)
    one, two = _scored(before, first.arm, contract), _scored(after, second.arm, contract)
    metrics = [metric.name for metric in contract.metrics if metric.asked]
    if all(PREFERENCE in scores for by_row in (one, two) for scores in by_row.values()):
        metrics.append(PREFERENCE)
    groups = [row.group for row in before.asked]
    found = correct(
        [
            compare(
                metric, first.name, second.name,
                [(one[row.id][metric].holds, two[row.id][metric].holds) for row in before.asked], groups,
            )
            for metric in [*metrics, HEADLINE]
        ]
    )  # fmt: skip
    return Contrast(
        first.name, second.name, len(groups), found, sentence(found[-1], LABELS[HEADLINE], grouped=len(set(groups)) < len(groups))
    )


def _scored(evidence: Evidence, arm: str, contract: Contract) -> dict[str, dict[str, Score]]:
    """An arm's scores by the row's id."""
    found = {}
    for row, said in zip(evidence.asked, evidence.said[arm], strict=True):
        found[row.id] = contract.score(row.answer(said.output, said.ended))
        if pair := evidence.preferred.get(arm, {}).get(row.id):
            found[row.id][PREFERENCE] = pair.score
    return found


def _evaluation(workspace: Path, which: str) -> Path:
    if Path(which).name == FILE:
        which = str(Path(which).parent)
    run = next((run for kind in ("eval", "train") for run in registry.all_runs(workspace, kind) if run.id == which), None)
    if run is None:
        try:
            run = registry.find(workspace, which, "eval")
        except InputError:
            with suppress(InputError):
                run = registry.find(workspace, which, "train")
            if run is None:
                raise
    return run.folder if (run.folder / FILE).is_file() else _newest(workspace, run)


def _newest(workspace: Path, run: Run) -> Path:
    """The newest evaluation of a training run."""
    for evaluation in registry.all_runs(workspace, "eval"):
        if (evaluation.folder / FILE).is_file() and reports.load(evaluation.folder).facts.get("run") == run.id:
            return evaluation.folder
    raise InputError(f"{run.id} was not evaluated.", mend=f"Measure it first: mlxtune eval {run.id}")
