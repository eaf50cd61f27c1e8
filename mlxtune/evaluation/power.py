"""What a number of rows can show, before anyone spends a run on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

from mlxtune.core.text import plural
from mlxtune.evaluation.statistics import Paired, Z

POWER = 0.8
LEVEL = 0.05
EXACT = 2000  # decided rows up to which sums are exact; beyond, the binomial is as good as normal
BROKEN = 0.05  # the share of rows that a change for the better may break on the way: what is planned for


def mcnemar_power(rows: int, fixed: float, broken: float) -> float:
    """Chance that the exact McNemar test at 5 % sees a change for the better, 0 to 1.

    ``fixed`` and ``broken`` are the shares of rows that change each way. The sum runs over the number of discordant rows,
    and in it over those fixed (both binomial); terms further than nine standard deviations from the mean are left out.
    Raises ``ValueError`` for shares that cannot be.
    """
    if rows < 0 or fixed < 0 or broken < 0 or fixed + broken > 1 + 1e-12:
        raise ValueError(f"{fixed} fixed and {broken} broken of {rows} rows cannot be")
    discordant = min(1.0, fixed + broken)
    if discordant == 0:
        return 0.0
    share = fixed / discordant
    power = 0.0
    for count in _bulk(rows, discordant):
        least = _least_wins(count)
        if least is not None:
            power += _binomial(count, rows, discordant) * _at_least(least, count, share)
    return min(1.0, power)


def detectable(rows: int, broken: float = 0.0) -> float | None:
    """The smallest rise of a rate, in steps of one point, that ``rows`` paired rows show with 80 % power.

    ``broken`` is the share of rows that break meanwhile. ``None`` where no rise is large enough.
    """
    return _first(lambda rise: mcnemar_power(rows, rise + broken, broken), 1.0 - 2 * broken)


def detectable_preference(votes: int) -> float | None:
    """The smallest share of decided votes, in steps of one point above a half, that the sign test shows with 80 % power."""
    least = _least_wins(votes)
    if least is None:
        return None
    rise = _first(lambda over: _at_least(least, votes, 0.5 + over), 0.5)
    return None if rise is None else 0.5 + rise


def expectation(rows: int) -> str:
    """What ``rows`` held-out rows can show, in words: ``80 rows: 10 points if nothing breaks, 17 if 5 % do.``"""
    clean, rough = detectable(rows), detectable(rows, BROKEN)
    name = plural(rows, "row")
    if clean is None:
        return f"{name}: too few to show any change."
    second = f", {round(100 * rough)} if {round(100 * BROKEN)} % do" if rough is not None else ""
    return f"{name}: {plural(round(100 * clean), 'point')} if nothing breaks{second}."


def needed_rows(paired: Paired, power: float = POWER) -> int | None:
    """About how many rows would settle a change as large as the one seen (Connor 1987, at ``power``); ``None`` if there is none."""
    total = paired.total
    change, discordant = (paired.fixed - paired.broken) / total, (paired.fixed + paired.broken) / total
    if change == 0:
        return None
    spread = Z * math.sqrt(discordant) + NormalDist().inv_cdf(power) * math.sqrt(max(0.0, discordant - change * change))
    return math.ceil((spread / change) ** 2)


def _first(power: Callable[[float], float], most: float) -> float | None:
    """The first hundredth, up to ``most``, with enough power; power rises with it, and so does the time it takes."""
    low, high, end = 0, 1, math.floor(100 * most + 1e-9)
    while high < end and power(high / 100) < POWER:
        low, high = high, min(2 * high, end)
    if high > end or power(high / 100) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle / 100) >= POWER else (middle, high)
    return high / 100


@lru_cache(maxsize=4096)
def _least_wins(count: int) -> int | None:
    """The fewest wins among ``count`` decided rows at which the exact two-sided test says better; ``None`` where none does."""
    if count < 6:  # 2 / 2**5 is above the level
        return None
    if count > EXACT:
        return math.floor(count / 2 + 0.5 + NormalDist().inv_cdf(1 - LEVEL / 2) * math.sqrt(count) / 2) + 1
    tail, wins = 0.0, count
    while 2 * (tail := tail + _binomial(wins, count, 0.5)) < LEVEL:
        wins -= 1
    return wins + 1


def _at_least(least: int, count: int, share: float) -> float:
    """Chance of ``least`` or more of ``count``."""
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
    """The numbers of hits that carry all of a binomial's weight."""
    reach = 9 * math.sqrt(count * share * (1 - share)) + 9
    return range(max(0, math.floor(count * share - reach)), min(count, math.ceil(count * share + reach)) + 1)
