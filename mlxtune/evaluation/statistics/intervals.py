"""Closed-form intervals for rates and paired rates. Each function cites its source."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Self

LEVEL = 0.05
Z = NormalDist().inv_cdf(1 - LEVEL / 2)
Z_ONE_SIDED = NormalDist().inv_cdf(0.95)
_NORMAL = 2000.0  # degrees of freedom above which Student's t is practically normal
_INTERVALS = 64  # number of intervals in Simpson's rule


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class PairedCounts:
    """The 2×2 table of two arms on the same rows: how many rows pass in both arms, in only one, and in neither."""

    both: int
    broken: int  # first passes, second fails
    fixed: int  # first fails, second passes
    neither: int

    @classmethod
    def count(cls, passed: Sequence[tuple[bool, bool]]) -> Self:
        """Count rows by whether the first and the second arm passed."""
        cells = Counter((bool(one), bool(two)) for one, two in passed)
        return cls(cells[True, True], cells[True, False], cells[False, True], cells[False, False])

    @property
    def total(self) -> int:
        return self.both + self.broken + self.fixed + self.neither

    @property
    def first(self) -> int:
        """The number of rows that pass in the first arm."""
        return self.both + self.broken

    @property
    def second(self) -> int:
        """The number of rows that pass in the second arm."""
        return self.both + self.fixed


def wilson(hits: float, total: float, z: float = Z, effective_n: float = 0.0) -> tuple[float, float]:
    """Return the score interval for a rate (Wilson 1927). Raises ``ValueError`` unless 0 <= hits <= total and total > 0.

    ``effective_n``, if not 0, replaces ``total`` as the sample size (Korn and Graubard 1998, Survey Methodology 24:193).
    """
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"hits must be between 0 and a positive total: got {hits} of {total}")
    share, size = hits / total, effective_n or total
    center = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return (0.0 if hits == 0 else center - half), (1.0 if hits == total else center + half)


def newcombe(paired: PairedCounts, z: float = Z, effective_n: float = 0.0) -> tuple[float, float, float]:
    """Return the change in the rate from the first to the second arm with its interval: ``(low, change, high)``.

    This is method 10 in Newcombe 1998, Statistics in Medicine 17:2635: it combines Wilson limits, with the phi coefficient
    corrected for continuity. ``effective_n`` is used as in :func:`wilson`. Raises ``ValueError`` if there are no rows.
    """
    total = paired.total
    low1, high1 = wilson(paired.first, total, z, effective_n)
    low2, high2 = wilson(paired.second, total, z, effective_n)
    p1, p2 = paired.first / total, paired.second / total
    phi = _phi(paired, effective_n or total)
    down = math.sqrt(max(0.0, (p2 - low2) ** 2 - 2 * phi * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2))
    up = math.sqrt(max(0.0, (high2 - p2) ** 2 - 2 * phi * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2))
    return p2 - p1 - down, p2 - p1, p2 - p1 + up


def _phi(paired: PairedCounts, size: float) -> float:
    a, b, c, d = paired.both, paired.broken, paired.fixed, paired.neither
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - paired.total**2 / size / 2, 0.0)  # continuity correction of half a row
    return cross / math.sqrt(product)


def tango(paired: PairedCounts, effective_n: float = 0.0) -> tuple[float, float, float]:
    """Return the change in the rate with its score interval, which inverts :func:`tango_statistic`: ``(low, change, high)``.

    Each limit is a one-sided 95% limit, as in a non-inferiority test at 5%. ``effective_n`` is used as in
    :func:`wilson`: the counts are scaled by the design effect (Rao and Scott 1992, Biometrics 48:577). Raises ``ValueError`` if there
    are no rows.
    """
    if not paired.total:
        raise ValueError("there are no rows")
    change = (paired.fixed - paired.broken) / paired.total

    def limit(sign: int) -> float:
        inside, outside = change, float(sign)
        for _ in range(60):  # bisection: the statistic falls as the assumed change rises
            middle = (inside + outside) / 2
            excluded = sign * tango_statistic(paired, middle, effective_n) < -Z_ONE_SIDED
            inside, outside = (inside, middle) if excluded else (middle, outside)
        return inside

    return limit(-1), change, limit(1)


def tango_statistic(paired: PairedCounts, change: float, effective_n: float = 0.0) -> float:
    """Return the score statistic of the hypothesis that the rate changes by ``change``, in standard deviations.

    It is positive if the observed change is larger. The variance uses the maximum-likelihood estimate of the discordant shares
    under the hypothesis (Tango 1998, Statistics in Medicine 17:891). Requires at least one row.
    """
    size = effective_n or paired.total
    fixed, broken = (count * size / paired.total for count in (paired.fixed, paired.broken))
    b = (2 * size - fixed + broken) * change - fixed - broken
    c = -broken * change * (1 - change)
    share = (math.sqrt(max(0.0, b * b - 8 * size * c)) - b) / (4 * size)  # of rows that break, under the hypothesis
    variance = size * (2 * share + change * (1 - change))
    distance = fixed - broken - size * change
    if variance <= 1e-12:
        return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0
    return distance / math.sqrt(variance)


@lru_cache(maxsize=4096)
def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return the limit that Student's t with ``freedom`` >= 1 degrees of freedom exceeds on either side with probability ``level``.

    With t = √ν·tan φ, the probability is the integral of cos^(ν−1) from 0 to φ, divided by the one to π/2 (a beta function).
    """
    if freedom >= _NORMAL:
        return NormalDist().inv_cdf(1 - level / 2)
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi) / 2
    low, high = 0.0, math.pi / 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _cosine_integral(freedom - 1, middle) < (1 - level) * whole else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _cosine_integral(power: float, end: float) -> float:
    """Return the integral of cos^power from 0 to ``end`` by Simpson's rule."""
    step = end / _INTERVALS
    weights = (1 if index in (0, _INTERVALS) else 4 if index % 2 else 2 for index in range(_INTERVALS + 1))
    return step / 3 * math.fsum(weight * math.cos(index * step) ** power for index, weight in enumerate(weights))
