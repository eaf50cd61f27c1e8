"""Closed forms for rates and paired rates, and for several of them. Standard library only; each names its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Paired:
    """Two arms on the same rows: how many rows both pass, only one passes, and neither passes."""

    both: int
    broken: int  # first passes, second fails
    fixed: int  # first fails, second passes
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.broken + self.fixed + self.neither


def wilson(hits: int, total: int, z: float = Z, rows: float = 0.0) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927). Raises ``ValueError`` unless 0 <= hits <= total and total > 0.

    ``rows``, where it is not 0, is how many independent rows ``total`` are worth (Korn and Graubard 1998, Survey Methodology 24:193).
    """
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"{hits} of {total} is no rate")
    share, size = hits / total, rows or total
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == total else centre + half)


def mcnemar(broken: int, fixed: int) -> float:
    """Exact two-sided p of McNemar's test: the binomial test of the discordant rows at one half (McNemar 1947)."""
    discordant = broken + fixed
    if discordant == 0:
        return 1.0
    tail = sum(math.comb(discordant, count) for count in range(min(broken, fixed) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def newcombe(paired: Paired, z: float = Z, rows: float = 0.0) -> tuple[float, float, float]:
    """Change of the rate from the first arm to the second with its interval: ``(low, change, high)``.

    Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson limits squared and added, with the phi coefficient
    corrected for continuity. ``rows`` as for :func:`wilson`. Raises ``ValueError`` for no rows.
    """
    total = paired.total
    first, second = paired.both + paired.broken, paired.both + paired.fixed
    low1, high1 = wilson(first, total, z, rows)
    low2, high2 = wilson(second, total, z, rows)
    p1, p2 = first / total, second / total
    phi = _phi(paired, rows or total)
    down = math.sqrt(max(0.0, (p2 - low2) ** 2 - 2 * phi * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2))
    up = math.sqrt(max(0.0, (high2 - p2) ** 2 - 2 * phi * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2))
    return p2 - p1 - down, p2 - p1, p2 - p1 + up


def _phi(paired: Paired, rows: float) -> float:
    a, b, c, d = paired.both, paired.broken, paired.fixed, paired.neither
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - paired.total**2 / rows / 2, 0.0)  # half a row, of those that they are worth
    return cross / math.sqrt(product)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p that wins and losses come from a fair coin; ties are left out before (Dixon and Mood 1946)."""
    return mcnemar(losses, wins)


def holm(values: Sequence[float]) -> list[float]:
    """``values`` adjusted for their number, in their order: p of Holm's step-down procedure (Holm 1979), at most 1 each.

    A hypothesis whose adjusted p is below 5 % can be rejected while the chance of any false rejection stays below 5 %.
    """
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        floor = max(floor, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = floor
    return adjusted
