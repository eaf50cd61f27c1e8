"""The cluster bootstrap for mean scores, seeded so that results are reproducible."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class BootstrapMean:
    """A mean with its 95% interval over ``groups`` independent groups. With one group, both limits are the mean."""

    low: float
    value: float
    high: float
    groups: int


def bootstrap(values: Sequence[float], groups: Sequence[Hashable], seed: int, draws: int = DRAWS) -> BootstrapMean:
    """Return the mean of ``values`` with a bias-corrected and accelerated interval (Efron 1987) from ``draws`` resamples.

    Whole groups are drawn with replacement, because rows in one group are dependent. For paired scores, pass the differences.
    Raises ``ValueError`` if there are no values or the lengths differ.
    """
    if not values or len(values) != len(groups):
        raise ValueError(f"cannot bootstrap {len(values)} values in {len(groups)} groups")
    sums: dict[Hashable, tuple[float, int]] = {}
    for value, group in zip(values, groups, strict=True):
        total, count = sums.get(group, (0.0, 0))
        sums[group] = (total + value, count + 1)
    clusters = list(sums.values())
    center = _mean(clusters)
    means = resampled_means(clusters, seed, draws)
    low, high = _limits(means, center, clusters)
    return BootstrapMean(low, center, high, len(clusters))


def resampled_means(clusters: Sequence[tuple[float, int]], seed: int, draws: int) -> list[float]:
    """Return the sorted means of ``draws`` resamples of ``clusters``, which are ``(sum, rows)`` pairs."""
    random = Random(seed)
    return sorted(_mean(random.choices(clusters, k=len(clusters))) for _ in range(draws))


def _mean(clusters: Sequence[tuple[float, int]]) -> float:
    return math.fsum(total for total, _ in clusters) / sum(count for _, count in clusters)


def _limits(means: Sequence[float], center: float, clusters: Sequence[tuple[float, int]]) -> tuple[float, float]:
    if means[0] == means[-1]:
        return means[0], means[-1]
    normal = NormalDist()
    below = (sum(mean < center for mean in means) + sum(mean <= center for mean in means)) / (2 * len(means))
    bias = normal.inv_cdf(min(1 - 1e-9, max(1e-9, below)))
    jackknife = [_mean([*clusters[:index], *clusters[index + 1 :]]) for index in range(len(clusters))]
    middle = math.fsum(jackknife) / len(jackknife)
    squares = math.fsum((middle - mean) ** 2 for mean in jackknife)
    acceleration = math.fsum((middle - mean) ** 3 for mean in jackknife) / (6 * squares**1.5) if squares else 0.0

    def limit(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return _quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))

    return limit((1 - LEVEL) / 2), limit((1 + LEVEL) / 2)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate linearly between order statistics, as numpy does by default."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
