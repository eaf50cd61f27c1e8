"""Better, worse, or cannot tell: one arm against another on the same rows, in figures and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlxtune.evaluation.statistics import Paired, mcnemar, needed_rows, newcombe

Word = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Comparison:
    """One metric of ``second`` against ``first``: the 2×2, the change with its 95 % interval, p, and what it means."""

    metric: str
    first: str
    second: str
    paired: Paired
    low: float
    change: float
    high: float
    p: float
    word: Word


def compare(metric: str, first: str, second: str, passed: list[tuple[bool, bool]]) -> Comparison:
    """``passed`` holds, for each row, whether the first and the second arm passed it. Raises ``ValueError`` for no rows.

    A change counts when its interval (Newcombe) lies on one side of zero and the exact test (McNemar) agrees at 5 %.
    """
    paired = Paired(
        both=sum(one and two for one, two in passed),
        broken=sum(one and not two for one, two in passed),
        fixed=sum(two and not one for one, two in passed),
        neither=sum(not one and not two for one, two in passed),
    )
    low, change, high = newcombe(paired)
    p = mcnemar(paired.broken, paired.fixed)
    word: Word = "cannot tell" if p >= 0.05 else "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return Comparison(metric, first, second, paired, low, change, high, p, word)


def sentence(comparison: Comparison, label: str) -> str:
    """The verdict in words: the fact and its interval in whole points."""
    low, change, high = (round(100 * value) for value in (comparison.low, comparison.change, comparison.high))
    name = label[0].upper() + label[1:]
    if comparison.word == "better":
        return f"Better. {name} rose by {change} points, between {low} and {high}, over {comparison.first}."
    if comparison.word == "worse":
        return f"Worse. {name} fell by {-change} points, between {-high} and {-low}, against {comparison.first}."
    rows = needed_rows(comparison.paired)
    more = f"; about {rows:,} rows would settle it" if rows and rows > comparison.paired.total else ""
    return f"Cannot tell. {name} changed by between {_signed(low)} and {_signed(high)} points{more}."


def _signed(points: int) -> str:
    return f"−{-points}" if points < 0 else f"+{points}" if points else "0"
