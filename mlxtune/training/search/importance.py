"""How much each hyperparameter mattered in a search: the trend of the contract rate over its range."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mlxtune.training.search.board import Board
from mlxtune.training.search.space import PARAMETERS, Value, log_scale

MIN_TRIALS = 4
DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Trend:
    """The change of the contract rate from the lowest to the highest value of a hyperparameter, with its 95% interval over trials."""

    label: str
    lowest: Value
    highest: Value
    low: float
    change: float
    high: float


def trends(board: Board) -> tuple[Trend, ...]:
    """Return the trend of each hyperparameter in the first rung, which all trials complete; empty if there are too few trials.

    It is the slope of a least-squares line, on a logarithmic scale for numbers. The interval is the percentile bootstrap over trials,
    so it includes what the other hyperparameters contribute. A rate that peaks in the middle of a range has no trend.
    """
    scored = [trial for trial in board.trials if (trial.number, 0) in board.results]
    if len(scored) < MIN_TRIALS:
        return ()
    rates = [board.results[trial.number, 0].rate for trial in scored]
    return tuple(
        trend for parameter in PARAMETERS
        if parameter.name in scored[0].values
        and (trend := _trend(parameter.label, [trial.values[parameter.name] for trial in scored], rates))
    )  # fmt: skip


def _trend(label: str, values: Sequence[Value], rates: Sequence[float]) -> Trend | None:
    numbers = log_scale(values)
    span = max(numbers) - min(numbers)
    change = _slope(numbers, rates)
    if not span or change is None:
        return None
    rng = random.Random(0)
    pairs = list(zip(numbers, rates, strict=True))
    slopes = []
    for _ in range(DRAWS):
        drawn = rng.choices(pairs, k=len(pairs))
        if (slope := _slope([x for x, _ in drawn], [y for _, y in drawn])) is not None:
            slopes.append(slope)
    slopes.sort()
    low, high = (slopes[round(share * (len(slopes) - 1))] for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    order = sorted(range(len(values)), key=numbers.__getitem__)
    low, change, high = (max(-1.0, min(1.0, slope * span)) for slope in (low, change, high))
    return Trend(label, values[order[0]], values[order[-1]], low, change, high)


def _slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the slope of the least-squares line; ``None`` if all ``x`` are equal."""
    middle = fmean(x)
    spread = sum((value - middle) ** 2 for value in x)
    return sum((value - middle) * rate for value, rate in zip(x, y, strict=True)) / spread if spread > 1e-12 else None
