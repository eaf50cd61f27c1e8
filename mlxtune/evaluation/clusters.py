"""Rows that belong together (near-duplicates, one customer) are no independent evidence: what they are worth, and an exact test over groups.

Where every row is a group of its own, all of this is what it is without groups.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def worth(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """How many independent rows the mean of ``values`` is worth: their number over the design effect (Kish 1965, Survey Sampling).

    The design effect is the variance of the mean by groups (the sandwich estimator for one mean: Liang and Zeger 1986) over that of
    independent rows, at least 1, and at most what it is when all rows of a group are copies. Where the values do not vary, nothing
    is known of it, and the most is taken. Raises ``ValueError`` for groups of another number.
    """
    total = len(values)
    if total != len(groups):
        raise ValueError(f"{total} values are not of {len(groups)} groups")
    sizes = Counter(groups)
    if len(sizes) == total:
        return float(total)
    most = sum(size * size for size in sizes.values()) / total
    mean = math.fsum(values) / total
    apart = math.fsum((value - mean) ** 2 for value in values) / (total * (total - 1))
    if len(sizes) == 1 or apart <= 1e-15:
        return total / most
    sums: dict[Hashable, float] = dict.fromkeys(sizes, 0.0)
    for value, group in zip(values, groups, strict=True):
        sums[group] += value - mean
    together = len(sizes) / (len(sizes) - 1) * math.fsum(value * value for value in sums.values()) / total**2
    return total / min(most, max(1.0, together / apart))


def flips(nets: Sequence[int]) -> float:
    """Exact two-sided p of the sign-flip test (Fisher 1935): how often the sum of ``nets``, each with the sign of a fair coin, is as far from 0.

    ``nets`` are whole numbers, one for each group: rows fixed less rows broken. Where all are 1, 0 or −1 this is McNemar's exact test.
    """
    seen = abs(sum(nets))
    sizes = Counter(abs(net) for net in nets if net)
    ones = sizes.pop(1, 0)
    sums = Counter({0: 1})  # ways to come to each sum of the larger nets
    for size, count in sizes.items():
        for _ in range(count):
            flipped: Counter[int] = Counter()
            for value, ways in sums.items():
                flipped[value + size] += ways
                flipped[value - size] += ways
            sums = flipped
    as_far = sum(ways * (_at_least(seen - value, ones) + _at_least(seen + value, ones)) for value, ways in sums.items())
    all_ways = 2 ** (ones + sizes.total())
    return min(1.0, as_far / all_ways) if seen else 1.0


def _at_least(least: int, coins: int) -> int:
    """In how many ways ``coins`` signs come to a sum of ``least`` or more."""
    heads = max(0, -(-(least + coins) // 2))
    return sum(math.comb(coins, count) for count in range(heads, coins + 1))


def net(gains: Sequence[int], groups: Sequence[Hashable]) -> list[int]:
    """What the rows of each group come to together, in the order of their first rows."""
    sums: dict[Hashable, int] = {}
    for gain, group in zip(gains, groups, strict=True):
        sums[group] = sums.get(group, 0) + gain
    return list(sums.values())
