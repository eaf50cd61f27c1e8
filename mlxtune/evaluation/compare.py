"""Compare two evaluations row by row, if they were made under the same conditions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.evaluation import history, report_builder
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.answers import score_answers
from mlxtune.evaluation.arms import is_free, is_tuned
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import load_evidence
from mlxtune.evaluation.report import EvaluationReport, strongest_arm
from mlxtune.evaluation.scorers import PREFERENCE
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.verdict import Comparison, apply_holm, compare
from mlxtune.runs.registry import Run


@dataclass(frozen=True)
class EvaluationSide:
    """An evaluation and the arm that represents it: the strongest tuned arm if there is one, otherwise the strongest."""

    folder: Path
    report: EvaluationReport
    arm: str

    @property
    def name(self) -> str:
        """The arm, and its run if the rows are validation rows, otherwise the evaluation."""
        return f"{self.arm} of {self.report.facts['run'] if Run(self.folder).kind == 'validate' else self.folder.name}"


@dataclass(frozen=True)
class EvaluationComparison:
    """The comparison of the second side with the first on each metric but those of the answers' form."""

    first: str
    second: str
    rows: int
    comparisons: tuple[Comparison, ...]  # the last one on the metric that the verdicts of both are about
    grouped: bool  # whether some rows belong to the same group, and so are not independent

    @property
    def headline(self) -> Comparison:
        return self.comparisons[-1]


def find_side(workspace: Path, which: str) -> EvaluationSide:
    """Find an evaluation by its folder or ID, or the newest evaluation of a training run. Raises ``InputError``."""
    report = reports.load(folder := history.find(workspace, which))
    generating = [arm for arm in report.arms if not is_free(arm.name)]
    arm = report.subject if is_tuned(report.subject.name) else strongest_arm(generating, report.answer_metric)
    return EvaluationSide(folder, report, arm.name)


def compare_evaluations(first: EvaluationSide, second: EvaluationSide) -> EvaluationComparison:
    """Rescore both evaluations and compare them. Raises ``InputError`` if outputs are missing, conditions differ, or both are the
    same."""
    if first.folder.resolve() == second.folder.resolve():
        raise InputError(f"Both sides are the same evaluation, {first.folder.name}.", hint="Specify a different evaluation or run.")
    history.require_comparable(first.folder.name, first.report.facts, second.folder.name, second.report.facts)
    before, after = load_evidence(first.folder), load_evidence(second.folder)
    contract = Contract.from_recipe(after.recipe)
    one, two = (
        {answer.id: answer.scores for answer in score_answers(contract, evidence.rows, evidence.answers[side.arm])}
        for side, evidence in ((first, before), (second, after))
    )
    groups = [row.group for row in before.rows]
    scores = [one[row.id] for row in before.rows], [two[row.id] for row in before.rows]
    has_pairs = any(PREFERENCE in before and PREFERENCE in after for before, after in zip(*scores, strict=True))
    headline = contract.headline(after.recipe, has_preferences=has_pairs)
    metrics = [metric for metric in contract.names(has_pairs=has_pairs) if metric not in FORMS]
    comparisons = [
        compare(metric, first.name, second.name, *report_builder.both_passed(metric, *scores, groups))
        for metric in sorted(metrics, key=lambda metric: metric == headline)
    ]
    adjusted = apply_holm(comparisons, lambda item: item.metric == headline)
    return EvaluationComparison(first.name, second.name, len(groups), adjusted, len(set(groups)) < len(groups))


def compare_many(first: EvaluationSide, others: Sequence[EvaluationSide]) -> list[Comparison]:
    """Compare each of ``others`` with ``first`` on the metric of the verdict, with p-values adjusted for their number (Holm).

    Raises ``InputError`` as :func:`compare_evaluations` does.
    """
    return list(apply_holm([compare_evaluations(first, other).headline for other in others]))
