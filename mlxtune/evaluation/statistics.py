"""Closed forms for rates and paired rates. Standard library only; each names its source."""

from __future__ import annotations

import math
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


def wilson(hits: int, total: int, z: float = Z) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927). Raises ``ValueError`` unless 0 <= hits <= total and total > 0."""
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"{hits} of {total} is no rate")
    share = hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == total else centre + half)


def mcnemar(broken: int, fixed: int) -> float:
    """Exact two-sided p of McNemar's test: the binomial test of the discordant rows at one half (McNemar 1947)."""
    discordant = broken + fixed
    if discordant == 0:
        return 1.0
    tail = sum(math.comb(discordant, count) for count in range(min(broken, fixed) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def newcombe(paired: Paired, z: float = Z) -> tuple[float, float, float]:
    """Change of the rate from the first arm to the second with its interval: ``(low, change, high)``.

    Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson limits squared and added, with the phi coefficient
    corrected for continuity. Raises ``ValueError`` for no rows.
    """
    total = paired.total
    first, second = paired.both + paired.broken, paired.both + paired.fixed
    low1, high1 = wilson(first, total, z)
    low2, high2 = wilson(second, total, z)
    p1, p2 = first / total, second / total
    phi = _phi(paired)
    down = math.sqrt(max(0.0, (p2 - low2) ** 2 - 2 * phi * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2))
    up = math.sqrt(max(0.0, (high2 - p2) ** 2 - 2 * phi * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2))
    return p2 - p1 - down, p2 - p1, p2 - p1 + up


def _phi(paired: Paired) -> float:
    a, b, c, d = paired.both, paired.broken, paired.fixed, paired.neither
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - paired.total / 2, 0.0)
    return cross / math.sqrt(product)


def needed_rows(paired: Paired, power: float = 0.8) -> int | None:
    """About how many rows would settle a change as large as the one seen (Connor 1987, at ``power``); ``None`` if there is none."""
    total = paired.total
    change, discordant = (paired.fixed - paired.broken) / total, (paired.fixed + paired.broken) / total
    if change == 0:
        return None
    spread = Z * math.sqrt(discordant) + NormalDist().inv_cdf(power) * math.sqrt(max(0.0, discordant - change * change))
    return math.ceil((spread / change) ** 2)
