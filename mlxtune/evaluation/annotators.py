"""The agreement between annotators of a source: Cohen's κ for each pair, over the rows that both decided on."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from mlxtune.data.review import Decision, judgments
from mlxtune.evaluation.statistics.agreement import Estimate, kappa


@dataclass(frozen=True)
class AnnotatorAgreement:
    """The ``rows`` that two annotators decided on, the number with the ``same`` decision, and κ unless it is undefined."""

    names: tuple[str, str]
    rows: int
    same: int
    kappa: Estimate | None


def agreements(decisions: Collection[Decision]) -> list[AnnotatorAgreement]:
    """Return the agreement between each pair of annotators in ``decisions``; empty if fewer than two decided anything."""
    names = sorted({name for decision in decisions for name, _ in decision.by})
    pairs = judgments(decisions)
    result = []
    for one, other in combinations(names, 2):
        both = pairs.get((one, other), [])
        same = sum(first == second for first, second in both)
        result.append(AnnotatorAgreement((one, other), len(both), same, kappa(both) if both else None))
    return result
