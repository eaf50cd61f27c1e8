"""Statistics for dependent rows, such as near-duplicates and rows of the same customer.

If every row is in its own group, each function gives the result for independent rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)


def effective_n(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Return the effective sample size of the mean of ``values``: their count divided by the design effect (Kish 1965).

    The design effect is the variance of the mean by groups (the sandwich estimator for one mean: Liang and Zeger 1986) divided by
    its variance for independent rows. It is limited to the range from 1 to its value for groups of identical rows, which is also assumed
    if the values do not vary. Raises ``ValueError`` if the lengths differ.
    """
    total = len(values)
    if total != len(groups):
        raise ValueError(f"there are {total} values but {len(groups)} groups")
    sizes = Counter(groups)
    if len(sizes) == total:
        return float(total)
    largest = sum(size * size for size in sizes.values()) / total
    mean = math.fsum(values) / total
    independent = math.fsum((value - mean) ** 2 for value in values) / (total * (total - 1))
    if len(sizes) == 1 or independent <= 1e-15:
        return total / largest
    sums: dict[Hashable, float] = dict.fromkeys(sizes, 0.0)
    for value, group in zip(values, groups, strict=True):
        sums[group] += value - mean
    clustered = len(sizes) / (len(sizes) - 1) * math.fsum(value * value for value in sums.values()) / total**2
    return total / min(largest, max(1.0, clustered / independent))


def permutation_p(sums: Sequence[int]) -> float:
    """Return the exact two-sided p-value of the sign-flip test (Fisher 1935): how often random signs give a total as far from 0.

    ``sums`` holds one integer per group: rows fixed minus rows broken. If all are 1, 0 or −1, this is McNemar's exact test.
    """
    observed = abs(sum(sums))
    sizes = Counter(abs(value) for value in sums if value)
    ones = sizes.pop(1, 0)
    ways_to = Counter({0: 1})  # number of ways to reach each total of the larger sums
    for size, count in sizes.items():
        for _ in range(count):
            flipped: Counter[int] = Counter()
            for value, ways in ways_to.items():
                flipped[value + size] += ways
                flipped[value - size] += ways
            ways_to = flipped
    extreme = sum(ways * (_at_least(observed - value, ones) + _at_least(observed + value, ones)) for value, ways in ways_to.items())
    return min(1.0, extreme / 2 ** (ones + sizes.total())) if observed else 1.0


def _at_least(least: int, coins: int) -> int:
    """Return the number of ways in which ``coins`` signs add up to ``least`` or more."""
    heads = max(0, -(-(least + coins) // 2))
    return sum(math.comb(coins, count) for count in range(heads, coins + 1))


def group_sums(values: Sequence[Number], groups: Sequence[Hashable]) -> list[Number]:
    """Return the sum of each group's values, in the order of the groups' first rows."""
    sums: dict[Hashable, Number] = {}
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, type(value)(0)) + value
    return list(sums.values())
