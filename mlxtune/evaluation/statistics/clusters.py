"""Statistics for dependent rows, such as near-duplicates and rows of the same customer.

If every row is in its own group, each function gives the result for independent rows.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlxtune.evaluation.statistics.intervals import LEVEL, Estimate, t_quantile

Number = TypeVar("Number", int, float)


def effective_groups(groups: Sequence[Hashable]) -> float:
    """Return how many groups of equal size would carry as much information as ``groups`` if the rows of each were identical (Kish 1965)."""
    return len(groups) ** 2 / sum(size * size for size in Counter(groups).values())


def effective_n(values: Sequence[float], groups: Sequence[Hashable], level: float = LEVEL) -> float:
    """Return the effective sample size of the mean of ``values``, for intervals with the error rate ``level``.

    It is the count divided by the design effect: the variance of the mean by groups (the sandwich estimator for one mean: Liang and
    Zeger 1986) over its variance for independent rows. Few groups can look independent by chance, so one more group is counted whose rows
    are identical, and the size is reduced by the squared ratio of Student's t quantiles with the degrees of freedom of rows and of groups
    (Korn and Graubard 1998, Survey Methodology 24:193; those of groups of unequal size after Satterthwaite 1946, as in Bell and
    McCaffrey 2002, Survey Methodology 28:169). It is at least :func:`effective_groups`, the size if the rows of each group were identical.
    """
    total, sizes = len(values), Counter(groups)
    if len(sizes) == total:
        return float(total)
    count = effective_groups(groups)
    largest = total / count  # the design effect of identical rows
    mean = math.fsum(values) / total
    independent = math.fsum((value - mean) ** 2 for value in values) / (total * (total - 1))
    if len(sizes) == 1 or independent <= 1e-15:
        return count
    clustered = (
        len(sizes) / (len(sizes) - 1) * math.fsum(one * one for one in group_sums([value - mean for value in values], groups))
    )
    design = ((count - 1) * clustered / total**2 / independent + largest) / count
    design = min(largest, max(1.0, design))
    correlation = (design - 1) / (largest - 1)
    parts = [size * (1 + (size - 1) * correlation) for size in sizes.values()]  # of the variance, by group
    freedom = max(1.0, sum(parts) ** 2 / sum(part * part for part in parts) - 1)
    return max(count, total / design * (t_quantile(total - 1, level) / t_quantile(round(freedom, 2), level)) ** 2)


@dataclass(frozen=True)
class ClusterMean(Estimate):
    """A mean with its 95% interval over ``groups`` independent groups."""

    groups: int


def cluster_mean(values: Sequence[float], groups: Sequence[Hashable]) -> ClusterMean:
    """Return the mean of ``values`` with Student's t interval over two or more groups; for paired scores, pass the differences.

    The standard error is the sandwich estimator, and the degrees of freedom are Satterthwaite's for groups of identical rows, as in
    :func:`effective_n`.
    """
    sizes = Counter(groups)
    mean = math.fsum(values) / len(values)
    sums = group_sums([value - mean for value in values], groups)
    error = math.sqrt(len(sizes) / (len(sizes) - 1) * math.fsum(one * one for one in sums)) / len(values)
    squares = [size * size for size in sizes.values()]
    freedom = max(1.0, sum(squares) ** 2 / sum(square * square for square in squares) - 1)
    half = t_quantile(round(freedom, 2)) * error
    return ClusterMean(mean - half, mean, mean + half, len(sizes))


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
