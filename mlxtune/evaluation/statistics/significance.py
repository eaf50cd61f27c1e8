"""Adjustment for multiple tests and repeated looks, how near a conclusion is to another one, and the power of tests."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from statistics import NormalDist

from mlxtune.evaluation.statistics.intervals import LEVEL, Z_ONE_SIDED, PairedCounts, tango_statistic


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple testing by Holm's step-down procedure (Holm 1979), in the given order.

    Rejecting every hypothesis with an adjusted p-value below 5% keeps the chance of any false rejection below 5%.
    """
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        floor = max(floor, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = floor
    return adjusted


def level_for_look(look: int) -> float:
    """Return the two-sided level of the ``look``-th comparison on the same rows, counted from 1.

    The first look has 5%, look n > 1 has 5% / (n(n − 1)). These levels add up to 10%, and half of a level is the chance of a false
    *better*, so at most 5% of all series of looks contain one, however long they are (Bonferroni's inequality; a budget spent over looks
    is the idea of Lan and DeMets 1983).
    """
    return LEVEL if look == 1 else LEVEL / (look * (look - 1))


def fewest_changes(orders: Iterable[Sequence[int]], is_turned: Callable[[frozenset[int]], bool]) -> int | None:
    """Return the fewest rows whose change turns a conclusion, or ``None`` if no number does.

    Rows change one after another in each of ``orders``, which should begin with those that matter most; ``is_turned`` says whether the
    conclusion is another one once the given rows have changed.
    """
    fewest: int | None = None
    for order in orders:
        low, high = 0, len(order) if fewest is None else min(len(order), fewest - 1)
        if high < 1 or not is_turned(frozenset(order[:high])):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_turned(frozenset(order[:middle])) else (middle, high)
        fewest = high
    return fewest


POWER = 0.8
EXACT = 2000  # maximum discordant rows for exact sums; beyond this, the normal approximation is used
BROKEN = 0.05  # share of rows assumed to regress while others improve
FLIPPED = 0.1  # share of off-task answers assumed to change, as many for the better as for the worse


def mcnemar_power(rows: int, fixed: float, broken: float, level: float = LEVEL) -> float:
    """Return the power of the exact McNemar test at ``level`` to detect an improvement, 0 to 1.

    ``fixed`` and ``broken`` are the shares of rows that change each way. The sum is over the number of discordant rows and, for
    each, of fixed rows (both binomial), omitting terms beyond nine standard deviations.
    """
    discordant = min(1.0, fixed + broken)
    if discordant == 0:
        return 0.0
    share = fixed / discordant
    power = 0.0
    for count in _bulk(rows, discordant):
        least = _least_wins(count, level)
        if least is not None:
            power += _binomial(count, rows, discordant) * _at_least(least, count, share)
    return min(1.0, power)


def detectable_gain(rows: int, broken: float = 0.0, baselines: int = 1, level: float = LEVEL) -> float | None:
    """Return the smallest gain over the best of ``baselines``, in steps of one point, that ``rows`` paired rows detect with 80% power.

    ``broken`` is the share of rows that regress at the same time. The tuned arm must be better than each baseline, at ``level``; the
    power is at least 80% even if all of them are as good as the best one (Bonferroni). Returns ``None`` if no gain is large enough.
    """
    target = 1 - (1 - POWER) / baselines
    return _first(lambda gain: mcnemar_power(rows, gain + broken, broken, level), 1.0 - 2 * broken, target)


def detectable_preference(votes: int) -> float | None:
    """Return the smallest share of votes that are not ties, in steps of one point above 50%, that the sign test detects with 80% power."""
    least = _least_wins(votes, LEVEL)
    if least is None:
        return None
    excess = _first(lambda excess: _at_least(least, votes, 0.5 + excess), 0.5)
    return None if excess is None else 0.5 + excess


@lru_cache(maxsize=256)
def non_inferiority_power(rows: int, margin: float, broken: float = FLIPPED / 2, fixed: float = FLIPPED / 2) -> float:
    """Return the power of Tango's test at one-sided 5% to rule out that a rate drops by ``margin`` or more, 0 to 1.

    ``broken`` and ``fixed`` are the shares of rows that change each way. The sum is over both numbers, omitting terms beyond nine
    standard deviations. If ``broken - fixed`` is the margin, the result is the test's error.
    """
    discordant, power = broken + fixed, 0.0
    for changed in _bulk(rows, discordant) if rows else ():
        weight = _binomial(changed, rows, discordant)
        low, high = 0, changed + 1  # find the fewest fixed rows that rule it out, which is monotone
        while low < high:
            middle = (low + high) // 2
            paired = PairedCounts(rows - changed, changed - middle, middle, 0)
            low, high = (low, middle) if tango_statistic(paired, -margin) > Z_ONE_SIDED else (middle + 1, high)
        share = fixed / discordant if discordant else 0.0
        power += weight * sum(_binomial(count, changed, share) for count in range(low, changed + 1))
    return min(1.0, power)


def needed_rows(paired: PairedCounts, level: float = LEVEL) -> int | None:
    """Estimate how many rows it would take to confirm the observed change at ``level`` (Connor 1987); ``None`` if there is no change."""
    total = paired.total
    change, discordant = (paired.fixed - paired.broken) / total, (paired.fixed + paired.broken) / total
    if change == 0:
        return None
    normal = NormalDist()
    spread = normal.inv_cdf(1 - level / 2) * math.sqrt(discordant) + normal.inv_cdf(POWER) * math.sqrt(
        max(0.0, discordant - change * change)
    )
    return math.ceil((spread / change) ** 2)


def _first(power: Callable[[float], float], maximum: float, target: float = POWER) -> float | None:
    """Return the first hundredth, up to ``maximum``, with the power ``target``. Both power and computation time increase with it."""
    low, high, end = 0, 1, math.floor(100 * maximum + 1e-9)
    while high < end and power(high / 100) < target:
        low, high = high, min(2 * high, end)
    if high > end or power(high / 100) < target:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle / 100) >= target else (middle, high)
    return high / 100


@lru_cache(maxsize=4096)
def _least_wins(count: int, level: float) -> int | None:
    """Return the fewest wins among ``count`` decided rows that the exact two-sided test finds significant at ``level``, or ``None``."""
    if 2 * 0.5**count >= level:
        return None
    if count > EXACT:
        return math.floor(count / 2 + 0.5 + NormalDist().inv_cdf(1 - level / 2) * math.sqrt(count) / 2) + 1
    tail, wins = 0.0, count
    while 2 * (tail := tail + _binomial(wins, count, 0.5)) < level:
        wins -= 1
    return wins + 1


def _at_least(least: int, count: int, share: float) -> float:
    spread = math.sqrt(count * share * (1 - share))
    if count > EXACT and spread:
        return 1 - NormalDist(count * share, spread).cdf(least - 0.5)
    return sum(_binomial(hits, count, share) for hits in _bulk(count, share) if hits >= least)


def _binomial(hits: int, count: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(hits == (count if share else 0))
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(share) + (count - hits) * math.log1p(-share))


def _bulk(count: int, share: float) -> range:
    """Return the range of hits that covers practically all of a binomial's probability."""
    reach = 9 * math.sqrt(count * share * (1 - share)) + 9
    return range(max(0, math.floor(count * share - reach)), min(count, math.ceil(count * share + reach)) + 1)
