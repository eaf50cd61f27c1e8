"""Compare two evaluations row by row, if they were made under the same conditions."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.evaluation import comparability, report_builder
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.answers import score_answers
from mlxtune.evaluation.arms import is_free, is_tuned
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import load_evidence
from mlxtune.evaluation.history import evaluations
from mlxtune.evaluation.report import FILE, EvaluationReport, strongest_arm
from mlxtune.evaluation.scorers import CONTRACT, PREFERENCE
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.verdict import Comparison, apply_holm, compare
from mlxtune.runs import registry


@dataclass(frozen=True)
class EvaluationSide:
    """An evaluation and the arm that represents it: the strongest tuned arm if there is one, otherwise the strongest."""

    folder: Path
    report: EvaluationReport
    arm: str

    @property
    def name(self) -> str:
        return f"{self.arm} of {self.folder.name}"


@dataclass(frozen=True)
class EvaluationComparison:
    """The comparison of the second side with the first on each metric but those of the answers' form."""

    first: str
    second: str
    rows: int
    comparisons: tuple[Comparison, ...]
    grouped: bool  # whether some rows belong to the same group, and so are not independent

    @property
    def headline(self) -> Comparison:
        """The comparison on the metric that the verdicts of both are about. It is the last one."""
        return self.comparisons[-1]


def find_side(workspace: Path, which: str) -> EvaluationSide:
    """Find an evaluation by its folder or ID, or the newest evaluation of a training run. Raises ``InputError``."""
    folder = _evaluation(workspace, which)
    report = reports.load(folder)
    subject, generating = report.subject, [arm for arm in report.arms if not is_free(arm.name)]
    arm = subject if is_tuned(subject.name) else strongest_arm(generating, report.answer_metric)
    return EvaluationSide(folder, report, arm.name)


def compare_evaluations(first: EvaluationSide, second: EvaluationSide) -> EvaluationComparison:
    """Rescore both evaluations and compare them. Raises ``InputError`` if outputs are missing, conditions differ, or both are the
    same."""
    if first.folder.resolve() == second.folder.resolve():
        raise InputError(f"Both sides are the same evaluation, {first.folder.name}.", hint="Specify a different evaluation or run.")
    comparability.require_comparable(first.folder.name, first.report.facts, second.folder.name, second.report.facts)
    before, after = load_evidence(first.folder), load_evidence(second.folder)
    contract = Contract.from_recipe(after.recipe)
    one, two = (
        {answer.id: answer.scores for answer in score_answers(contract, evidence.rows, evidence.answers[side.arm])}
        for side, evidence in ((first, before), (second, after))
    )
    has_pairs = any(PREFERENCE in scores and PREFERENCE in two[id] for id, scores in one.items())
    groups = [row.group for row in before.rows]
    metrics = [metric.name for metric in contract.metrics if metric.name not in FORMS]
    metrics += [CONTRACT] if contract.has_form else []
    headline = contract.headline(after.recipe, has_preferences=has_pairs)
    metrics = sorted([*metrics, *([PREFERENCE] if has_pairs else [])], key=lambda metric: metric == headline)
    comparisons = apply_holm(
        [
            compare(
                metric, first.name, second.name,
                *report_builder.both_passed(metric, [one[row.id] for row in before.rows], [two[row.id] for row in before.rows], groups),
            )
            for metric in metrics
        ],
        lambda item: item.metric == headline,
    )  # fmt: skip
    return EvaluationComparison(first.name, second.name, len(groups), comparisons, len(set(groups)) < len(groups))


def compare_many(first: EvaluationSide, others: Sequence[EvaluationSide]) -> list[Comparison]:
    """Compare each of ``others`` with ``first`` on the metric of the verdict, with p-values adjusted for their number (Holm).

    Raises ``InputError`` as :func:`compare_evaluations` does.
    """
    return list(apply_holm([compare_evaluations(first, other).headline for other in others]))


def _evaluation(workspace: Path, which: str) -> Path:
    if Path(which).name == FILE:
        which = str(Path(which).parent)
    run = next((run for kind in ("eval", "train") for run in registry.list_runs(workspace, kind) if run.id == which), None)
    if run is None:
        try:
            run = registry.find_run(workspace, which, "eval")
        except InputError:
            with suppress(InputError):
                run = registry.find_run(workspace, which, "train")
            if run is None:
                raise
    if (run.folder / FILE).is_file():
        return run.folder
    for evaluation in evaluations(workspace):
        if evaluation.run_id == run.id:
            return evaluation.run.folder
    if run.kind == "eval":
        raise InputError(f"The evaluation {run.id} has no report.", hint=f"See why: mlxtune runs show {run.id}")
    raise InputError(f"{run.id} has not been evaluated.", hint=f"Evaluate it first: mlxtune eval {run.id}")
