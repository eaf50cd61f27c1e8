"""The agreement between annotators of a source: Cohen's κ for each pair, over the rows that both decided on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from mlxtune.core.text import one_line, plural
from mlxtune.data.review import Decision, judgments
from mlxtune.evaluation.statistics.agreement import Estimate, kappa

_MAX_NAME = 20  # characters shown


@dataclass(frozen=True)
class AnnotatorAgreement:
    """The ``rows`` that two annotators decided on, the number with the ``same`` decision, and κ unless it is undefined."""

    names: tuple[str, str]
    rows: int
    same: int
    kappa: Estimate | None

    @property
    def title(self) -> str:
        return " and ".join(one_line(name, _MAX_NAME) for name in self.names)

    @property
    def sentence(self) -> str:
        """The agreement in words, or why κ cannot be computed."""
        if not self.rows:
            return "They have not decided on any of the same rows yet, so κ is unknown."
        counts = f"the same decision on {self.same:,} of {plural(self.rows, 'row')}"
        if self.kappa is None:
            return f"{counts[0].upper()}{counts[1:]}. κ is undefined because there is only one kind of decision."
        return f"κ {self.kappa.value:.2f} (95% CI {self.kappa.low:.2f} to {self.kappa.high:.2f}), {counts}."


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
