"""Better, worse, or cannot tell: one arm against another on the same rows, in figures and in a sentence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from mlxtune.evaluation.clusters import flips, net, worth
from mlxtune.evaluation.power import needed_rows
from mlxtune.evaluation.resample import bootstrap
from mlxtune.evaluation.statistics import Paired, holm, newcombe, sign_test

Word = Literal["better", "worse", "cannot tell"]

LEVEL = 0.05
HEADLINE = "contract"  # the one metric the verdict is about, named before any result is seen; of preference training its own


@dataclass(frozen=True)
class Comparison:
    """One metric of ``second`` against ``first``: the 2×2, the change with its 95 % interval, p, and what it means.

    ``adjusted`` is p after :func:`correct`; the word follows it. ``None`` where nothing was corrected.
    """

    metric: str
    first: str
    second: str
    paired: Paired
    low: float
    change: float
    high: float
    p: float
    word: Word
    adjusted: float | None = None


@dataclass(frozen=True)
class ScoreComparison:
    """One score of ``second`` against ``first``: rows that rose, fell and tied, the mean change with its interval, p, the word."""

    metric: str
    first: str
    second: str
    rose: int
    fell: int
    tied: int
    low: float
    change: float
    high: float
    p: float
    word: Word
    adjusted: float | None = None


Compared = TypeVar("Compared", bound=Comparison | ScoreComparison)


def compare(
    metric: str, first: str, second: str, passed: Sequence[tuple[bool, bool]], groups: Sequence[Hashable] = ()
) -> Comparison:
    """``passed`` holds, for each row, whether the first and the second arm passed it; rows of one of ``groups`` belong together.

    A change counts when its interval (Newcombe) lies on one side of zero and the exact test (McNemar) agrees at 5 %. With groups, the
    interval is that of as many rows as they are worth, and the test flips the signs of whole groups. Raises ``ValueError`` for no rows.
    """
    paired = Paired(
        both=sum(one and two for one, two in passed),
        broken=sum(one and not two for one, two in passed),
        fixed=sum(two and not one for one, two in passed),
        neither=sum(not one and not two for one, two in passed),
    )
    gains, groups = [two - one for one, two in passed], groups or range(len(passed))
    low, change, high = newcombe(paired, rows=worth(gains, groups))
    p = flips(net(gains, groups))
    return Comparison(metric, first, second, paired, low, change, high, p, judged(p, low, high))


def compare_scores(
    metric: str, first: str, second: str, scores: Sequence[tuple[float, float]], groups: Sequence[Hashable], seed: int
) -> ScoreComparison:
    """``scores`` holds, for each row, the score of the first and the second arm; rows of one of ``groups`` belong together.

    A change counts when its interval (bootstrap over groups) lies on one side of zero and the sign test over groups agrees at 5 %.
    Raises ``ValueError`` for no rows.
    """
    differences = [two - one for one, two in scores]
    mean = bootstrap(differences, groups, seed)
    rose, fell = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    sums: dict[Hashable, float] = {}
    for value, group in zip(differences, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value
    p = sign_test(sum(value > 0 for value in sums.values()), sum(value < 0 for value in sums.values()))
    word = judged(p, mean.low, mean.high)
    return ScoreComparison(metric, first, second, rose, fell, len(scores) - rose - fell, mean.low, mean.value, mean.high, p, word)


def correct(comparisons: Sequence[Compared], headline: str = HEADLINE) -> tuple[Compared, ...]:
    """``comparisons`` with p adjusted by Holm, and their words after it.

    The ``headline`` metric is the question that was asked beforehand, so it is one family, over the arms; all other metrics
    together are another.
    """
    done = list(comparisons)
    for family in (True, False):
        places = [at for at, item in enumerate(comparisons) if (item.metric == headline) == family]
        for at, p in zip(places, holm([comparisons[at].p for at in places]), strict=True):
            item = comparisons[at]
            done[at] = replace(item, adjusted=p, word=judged(p, item.low, item.high))
    return tuple(done)


def judged(p: float, low: float, high: float) -> Word:
    """The verdict: the test at 5 % and the interval, which must lie on one side of zero, have to agree."""
    return "cannot tell" if p >= LEVEL else "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def sentence(comparison: Comparison, label: str, *, grouped: bool = False) -> str:
    """The verdict in words: the fact and its interval in whole points. How many ``grouped`` rows would settle it is not known."""
    low, change, high = (round(100 * value) for value in (comparison.low, comparison.change, comparison.high))
    name = label[0].upper() + label[1:]
    if comparison.word == "better":
        return f"Better. {name} rose by {change} points, between {low} and {high}, over {comparison.first}."
    if comparison.word == "worse":
        return f"Worse. {name} fell by {-change} points, between {-high} and {-low}, against {comparison.first}."
    rows = None if grouped else needed_rows(comparison.paired)
    more = f"; about {rows:,} rows would settle it" if rows and rows > comparison.paired.total else ""
    return f"Cannot tell. {name} changed by between {_signed(low)} and {_signed(high)} points{more}."


def _signed(points: int) -> str:
    return f"−{-points}" if points < 0 else f"+{points}" if points else "0"
