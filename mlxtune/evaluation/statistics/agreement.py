"""Agreement between two raters, and rates corrected for a rater's errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from mlxtune.evaluation.statistics.intervals import Z


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    low: float
    value: float
    high: float


def kappa(pairs: Sequence[tuple[Hashable, Hashable]], z: float = Z) -> Estimate | None:
    """Return Cohen's κ for two raters (Cohen 1960), from −1 to 1, with the interval from Fleiss, Cohen and Everitt 1969.

    ``pairs`` holds both ratings of each item. Returns ``None`` if both raters always give the same rating, because κ is then
    undefined. Raises ``ValueError`` if there are no pairs.
    """
    total = len(pairs)
    if total == 0:
        raise ValueError("kappa needs at least one pair")
    cells = {key: count / total for key, count in Counter(pairs).items()}
    first = {rating: count / total for rating, count in Counter(one for one, _ in pairs).items()}
    second = {rating: count / total for rating, count in Counter(two for _, two in pairs).items()}
    observed = sum(share for (one, two), share in cells.items() if one == two)
    chance = sum(share * second.get(rating, 0.0) for rating, share in first.items())
    if chance > 1 - 1e-12:
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
    half = z * math.sqrt(max(0.0, variance) / total)
    return Estimate(max(-1.0, value - half), value, min(1.0, value + half))


@dataclass(frozen=True)
class ConfusionCounts:
    """A rater's correct ratings among true positives and true negatives."""

    true_positives: int
    positives: int
    true_negatives: int
    negatives: int


def corrected_rate(hits: int, total: int, known: ConfusionCounts, z: float = Z) -> Estimate | None:
    """Estimate the true rate from an imperfect rater's ``hits`` out of ``total``.

    The estimate follows Rogan and Gladen 1978, clipped to 0–1. The interval follows Lang and Reiczigel 2014 (Preventive Veterinary
    Medicine 113:13), which accounts for estimated sensitivity and specificity. Returns ``None`` if the rater is no better than
    chance or one class has no cases. Raises ``ValueError`` unless 0 <= hits <= total and total > 0.
    """
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"hits must be between 0 and a positive total: got {hits} of {total}")
    if known.positives == 0 or known.negatives == 0:
        return None
    youden = known.true_positives / known.positives + known.true_negatives / known.negatives - 1
    if youden <= 1e-12:
        return None
    value = (hits / total + known.true_negatives / known.negatives - 1) / youden
    n, n_se, n_sp = total + z * z, known.positives + 2, known.negatives + 2
    rate, se, sp = (hits + z * z / 2) / n, (known.true_positives + 1) / n_se, (known.true_negatives + 1) / n_sp
    true = (rate + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    half = z * math.sqrt(rate * (1 - rate) / n + true * true * v_se + (1 - true) ** 2 * v_sp) / (se + sp - 1)
    middle = true + 2 * z * z * (true * v_se - (1 - true) * v_sp)
    return Estimate(_clip(middle - half), _clip(value), _clip(middle + half))


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
