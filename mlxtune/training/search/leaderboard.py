"""The leaderboard of a search, as the command line and the app show it. Imports no mlx."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from mlxtune.core.files import read_json, require_version
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.training.search.board import OUTCOME, OUTCOME_VERSION, Board, read_board
from mlxtune.training.search.decision import SearchDecision, Standing, decide, standing
from mlxtune.training.search.space import PARAMETERS, Value, log_scale

TrialStatus = Literal[
    "selected", "tied", "finished", "training", "waiting", "pinned", "pruned", "not_started", "not_continued", "failed", "dropped"
]


@dataclass(frozen=True)
class Entry:
    """A trial: its values, its last result, and the reason for its place."""

    number: int
    values: tuple[Value, ...]  # in the order of the parameters
    rungs: tuple[int, ...]  # the lengths in steps after which it is compared
    rates: tuple[float, ...]  # its rate after each of them that it completed
    low: float  # the interval of the last rate
    high: float
    loss: float | None
    status: TrialStatus
    error: str = ""  # why it failed
    next_steps: int = 0  # the length to which it trains
    standing: Standing | None = None  # of a pruned trial

    @property
    def rate(self) -> float | None:
        return self.rates[-1] if self.rates else None

    @property
    def steps(self) -> int:
        """The length of the last rung that it completed."""
        return self.rungs[len(self.rates) - 1] if self.rates else 0


@dataclass(frozen=True)
class StoredOutcome:
    """The decision of a finished search."""

    decision: SearchDecision
    run: str  # ID of the run with the selected adapter
    evaluation: str  # its ID
    held_out: Rate | None  # the adapter's rate on the held-out rows, once it is evaluated


@dataclass(frozen=True)
class Leaderboard:
    """A search's trials, best first: by the last rung that they reached, then by rate and loss."""

    parameters: tuple[str, ...]
    rows: int
    entries: tuple[Entry, ...]
    trained_steps: int
    decision: SearchDecision | None  # on the results so far
    outcome: StoredOutcome | None  # once the search has made its decision
    places: tuple[Mapping[int, float], ...]  # of each parameter: where a trial's value lies between the ends, from 0 to 1
    ends: tuple[tuple[Value, Value], ...]  # the lowest and the highest value of each parameter
    trends: tuple[Trend, ...]


def read_leaderboard(search: Path) -> Leaderboard | None:
    """Return the leaderboard of the search in a folder; ``None`` if its trials are not planned yet."""
    board = read_board(search)
    if board is None:
        return None
    outcome = _read_outcome(search / OUTCOME)
    names = [parameter for parameter in PARAMETERS if parameter.name in board.plan.trials[0].values]
    decision = outcome.decision if outcome else decide(board)
    following = None if outcome else board.next_rung()
    entries = []
    for trial in sorted(board.plan.trials, key=lambda trial: _order(board, trial.number)):
        rung = board.last_rung(trial.number)
        result = board.results.get((trial.number, rung))
        low, high = 0.0, 0.0
        if result:
            low, high = wilson(sum(result.passed), len(result.passed), effective_n=effective_n(result.passed, board.plan.groups))
        status = _status(board, trial.number, following, decision if outcome else None)
        rates = tuple(board.results[trial.number, index].rate for index in range(rung + 1))
        entries.append(Entry(
            trial.number, tuple(trial.values[parameter.name] for parameter in names), trial.rungs, rates, low, high,
            result.loss if result and math.isfinite(result.loss) else None, status, board.failures.get(trial.number, ""),
            trial.rungs[following[1]] if following and status == "training" else 0,
            standing(board, trial.number) if status == "pruned" else None,
        ))  # fmt: skip
    scales = [_scale(board, parameter.name) for parameter in names]
    return Leaderboard(
        tuple(parameter.label for parameter in names), len(board.plan.rows), tuple(entries), board.trained_steps,
        decision, outcome, tuple(places for places, _ in scales), tuple(ends for _, ends in scales), trends(board),
    )  # fmt: skip


def _scale(board: Board, name: str) -> tuple[dict[int, float], tuple[Value, Value]]:
    """Return where each trial's value of a parameter lies between the ends, from 0 to 1, and the ends."""
    values = [trial.values[name] for trial in board.plan.trials]
    numbers = log_scale(values)
    order = sorted(zip(numbers, values, strict=True), key=lambda pair: (pair[0], str(pair[1])))
    (low, lowest), (high, highest) = order[0], order[-1]
    places = [(number - low) / (high - low) if high > low else 0.5 for number in numbers]
    return {trial.number: place for trial, place in zip(board.plan.trials, places, strict=True)}, (lowest, highest)


def _order(board: Board, number: int) -> tuple[bool, int, float, float, float, int]:
    rung = board.last_rung(number)
    result = board.results.get((number, rung))
    rate, loss = (result.rate, result.loss) if result else (0.0, 0.0)
    return board.is_out(number), -rung, -rate, loss, board.trial(number).cost, number


def _status(
    board: Board, number: int, following: tuple[int, int] | None, decision: SearchDecision | None
) -> TrialStatus:  # fmt: skip
    if number in board.failures:
        return "failed"
    if number in board.dropped:
        return "dropped"
    if decision and number in decision.tied:
        return "selected" if number == decision.selected else "tied"
    if following and following[0] == number:
        return "training"
    if board.is_pruned(number):
        return "pruned"
    if board.limit and number > board.limit:
        return "not_started"
    if number in board.pinned:
        return "pinned"
    if board.last_rung(number) == board.plan.rung_count - 1:
        return "finished"
    return "not_continued" if decision else "waiting"


def _read_outcome(file: Path) -> StoredOutcome | None:
    if not file.is_file():
        return None
    record: dict[str, Any] = read_json(file)
    require_version(record.get("v"), OUTCOME_VERSION, file)
    values = {field.name: record[field.name] for field in fields(SearchDecision)}
    decision = SearchDecision(**values | {"tied": tuple(values["tied"])})
    return StoredOutcome(decision, record["run"], record["evaluation"], _held_out(file.parent.parent.parent, record["evaluation"]))


def _held_out(workspace: Path, evaluation: str) -> Rate | None:
    folder = workspace / RUN_KINDS["eval"].folder / evaluation
    if not evaluation or not (folder / reports.FILE).is_file():
        return None
    report = reports.load(folder)
    return next((arm.rate(report.answer_metric) for arm in report.arms if arm.name == TUNED), None)


MIN_TRIALS = 4
DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Trend:
    """The change of the rate from the lowest to the highest value of a hyperparameter, with its 95% interval over trials."""

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
