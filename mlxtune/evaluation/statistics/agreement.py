"""Agreement between two raters, or between the annotators of a source: Cohen's κ for each pair, over the rows that both decided on."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

from mlxtune.data.review import Decision, judgments
from mlxtune.evaluation.statistics.intervals import Estimate, Z


def kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> Estimate | None:
    """Return Cohen's κ for two raters (Cohen 1960), from −1 to 1, with the interval from Fleiss, Cohen and Everitt 1969.

    ``pairs`` holds both ratings of each item. Returns ``None`` if there are none, or if both raters always give the same
    rating: κ is then undefined.
    """
    total = len(pairs)
    cells = {key: count / total for key, count in Counter(pairs).items()}
    first = {rating: count / total for rating, count in Counter(one for one, _ in pairs).items()}
    second = {rating: count / total for rating, count in Counter(two for _, two in pairs).items()}
    observed = sum(share for (one, two), share in cells.items() if one == two)
    chance = sum(share * second.get(rating, 0.0) for rating, share in first.items())
    if not pairs or chance > 1 - 1e-12:
        return None
    value = (observed - chance) / (1 - chance)
    agreed = sum(
        share * (1 - (first.get(one, 0.0) + second.get(one, 0.0)) * (1 - value)) ** 2
        for (one, two), share in cells.items()
        if one == two
    )
    disagreed = (1 - value) ** 2 * sum(
        share * (first.get(two, 0.0) + second.get(one, 0.0)) ** 2 for (one, two), share in cells.items() if one != two
    )
    variance = (agreed + disagreed - (value - chance * (1 - value)) ** 2) / (1 - chance) ** 2
    half = Z * math.sqrt(max(0.0, variance) / total)
    return Estimate(max(-1.0, value - half), value, min(1.0, value + half))


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
        result.append(AnnotatorAgreement((one, other), len(both), same, kappa(both)))
    return result
