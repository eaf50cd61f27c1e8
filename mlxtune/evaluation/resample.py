"""The bootstrap for scores: rows that belong together are drawn together, and the same seed draws the same."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, over ``groups`` independent groups. ``low`` and ``high`` are the mean where there is one group."""

    low: float
    value: float
    high: float
    groups: int


def bootstrap(values: Sequence[float], groups: Sequence[Hashable], seed: int, draws: int = DRAWS) -> Mean:
    """The mean of ``values`` with a bias-corrected and accelerated interval (Efron 1987) from ``draws`` resamples.

    Whole groups are drawn, with replacement: rows of one group (near-duplicates, one customer) are not independent evidence.
    For paired scores, give the differences. Raises ``ValueError`` for no values or for groups of another number.
    """
    if not values or len(values) != len(groups):
        raise ValueError(f"{len(values)} values with {len(groups)} groups have no mean")
    sums: dict[Hashable, tuple[float, int]] = {}
    for value, group in zip(values, groups, strict=True):
        total, count = sums.get(group, (0.0, 0))
        sums[group] = (total + value, count + 1)
    clusters = list(sums.values())
    centre = _mean(clusters)
    means = distribution(clusters, seed, draws)
    low, high = _limits(means, centre, clusters)
    return Mean(low, centre, high, len(clusters))


def distribution(clusters: Sequence[tuple[float, int]], seed: int, draws: int) -> list[float]:
    """Sorted means of ``draws`` resamples of ``clusters``, each ``(sum, rows)``."""
    random = Random(seed)
    return sorted(_mean(random.choices(clusters, k=len(clusters))) for _ in range(draws))


def _mean(clusters: Sequence[tuple[float, int]]) -> float:
    return math.fsum(total for total, _ in clusters) / sum(count for _, count in clusters)


def _limits(means: Sequence[float], centre: float, clusters: Sequence[tuple[float, int]]) -> tuple[float, float]:
    if means[0] == means[-1]:
        return means[0], means[-1]
    normal = NormalDist()
    below = (sum(mean < centre for mean in means) + sum(mean <= centre for mean in means)) / (2 * len(means))
    bias = normal.inv_cdf(min(1 - 1e-9, max(1e-9, below)))
    left = [_mean([*clusters[:at], *clusters[at + 1 :]]) for at in range(len(clusters))]
    middle = math.fsum(left) / len(left)
    squares = math.fsum((middle - mean) ** 2 for mean in left)
    pull = math.fsum((middle - mean) ** 3 for mean in left) / (6 * squares**1.5) if squares else 0.0

    def limit(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return _quantile(means, normal.cdf(bias + z / (1 - pull * z)))

    return limit((1 - LEVEL) / 2), limit((1 + LEVEL) / 2)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between order statistics, as numpy's default."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
