"""The leaderboard of a search, and its decision: which trials differ, and which one is selected. Imports no mlx."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from mlxtune.core.files import read_json, require_version
from mlxtune.core.json_fields import from_json
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import LEVEL, wilson
from mlxtune.evaluation.statistics.significance import holm
from mlxtune.evaluation.verdict import Comparison, compare
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.training.search.board import INCUMBENT, OUTCOME, OUTCOME_VERSION, Board, RungResult, read_board
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
        low, high = _interval(board, result) if result else (0.0, 0.0)
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
    decision = from_json(SearchDecision, {field.name: record[field.name] for field in fields(SearchDecision)})
    return StoredOutcome(decision, record["run"], record["evaluation"], _held_out(file.parent.parent.parent, record["evaluation"]))


def _held_out(workspace: Path, evaluation: str) -> Rate | None:
    folder = workspace / RUN_KINDS["eval"].folder / evaluation
    if not evaluation or not (folder / reports.FILE).is_file():
        return None
    report = reports.load(folder)
    return next((arm.rate(report.answer_metric) for arm in report.arms if arm.name == TUNED), None)


MIN_TRIALS = 4
DRAWS = 1000


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
    import numpy as np  # the command line's help does not need it

    numbers, everyone, rng = np.array(log_scale(values)), range(len(values)), random.Random(0)
    if not (span := float(np.ptp(numbers))):
        return None
    drawn = np.array([everyone, *(rng.choices(everyone, k=len(everyone)) for _ in range(DRAWS))])
    x = numbers[drawn] - numbers[drawn].mean(axis=1, keepdims=True)
    spread = (x**2).sum(axis=1)
    change, *slopes = ((x * np.array(rates)[drawn]).sum(axis=1)[spread > 1e-12] / spread[spread > 1e-12]).tolist()
    low, high = (sorted(slopes)[round(share * (len(slopes) - 1))] for share in (LEVEL / 2, 1 - LEVEL / 2))
    low, change, high = (max(-1.0, min(1.0, slope * span)) for slope in (low, change, high))
    order = np.argsort(numbers, kind="stable")
    return Trend(label, values[order[0]], values[order[-1]], low, change, high)


SearchOutcome = Literal["improved", "not_improved", "no_difference"]


@dataclass(frozen=True)
class SearchDecision:
    # improved: the selected trial is better than the recipe itself, after adjusting for the number of trials;
    # no_difference: no trial differs from the best one
    outcome: SearchOutcome
    best: int  # the trial with the best rate
    selected: int  # the cheapest of the trials that cannot be told apart from the best one
    rung: int  # at which they were compared, starting at 0
    tied: tuple[int, ...]  # the trials that cannot be told apart from the best one, and itself
    compared: int  # trials with a result
    rate: float  # the selected trial's validation rate, with its interval
    low: float
    high: float
    shrunken: float  # an estimate of this rate that accounts for the selection


@dataclass(frozen=True)
class Standing:
    """A pruned trial beside the best one of its last rung."""

    place: int
    trials: int  # of that rung
    best: int
    is_worse: bool  # whether it can be told apart from the best one
    low: float  # the best one's rate minus its own, with an interval
    change: float
    high: float


def decide(board: Board) -> SearchDecision | None:
    """Decide the search from the results so far; ``None`` if there are none."""
    rung = board.top_rung
    if rung < 0:
        return None
    ranking = board.ranking(rung)
    best = ranking[0]
    others = [trial.number for trial in board.trials if board.last_rung(trial.number) >= 0 and trial.number != best]
    comparisons = [compare_trials(board, number, best, min(rung, board.last_rung(number))) for number in others]
    adjusted = dict(zip(others, holm([item.p for item in comparisons]), strict=True))
    tied = [number for number in ranking if number == best or compare_trials(board, number, best, rung).outcome == "cannot_tell"]
    selected = min(tied, key=lambda number: (board.trial(number).cost, number != INCUMBENT, ranking.index(number)))
    result = board.results[selected, rung]
    outcome: SearchOutcome = "not_improved"
    if selected != INCUMBENT and (INCUMBENT, rung) in board.results:
        gain = compare_trials(board, INCUMBENT, selected, rung)
        if gain.change > 0 and gain.p * max(1, len(others)) < LEVEL:
            outcome = "improved"
    if outcome != "improved" and all(p >= LEVEL for p in adjusted.values()):
        outcome = "no_difference"
    shrunken = shrunken_rate(board, selected, rung)
    return SearchDecision(
        outcome, best, selected, rung, tuple(tied), len(others) + 1, result.rate, *_interval(board, result), shrunken
    )


def _interval(board: Board, result: RungResult) -> tuple[float, float]:
    return wilson(sum(result.passed), len(result.passed), effective_n=effective_n(result.passed, board.plan.groups))


def compare_trials(board: Board, first: int, second: int, rung: int) -> Comparison:
    one, two = board.results[first, rung], board.results[second, rung]
    passed = list(zip(one.passed, two.passed, strict=True))
    return compare("rate", f"trial {first}", f"trial {second}", passed, board.plan.groups)


def standing(board: Board, number: int) -> Standing:
    """Return why a trial did not continue after its last rung: its place there, and its difference from the best trial."""
    rung = board.last_rung(number)
    ranking = board.ranking(rung)
    item = compare_trials(board, number, ranking[0], rung)
    is_worse = item.outcome == "better"
    return Standing(ranking.index(number) + 1, len(ranking), ranking[0], is_worse, item.low, item.change, item.high)


def shrunken_rate(board: Board, number: int, rung: int) -> float:
    """Return an estimate of a trial's rate after ``rung`` that accounts for having selected it among all trials.

    It is the James–Stein estimate, which moves the rates of all trials toward their mean by the share of their spread that noise
    explains (Efron and Morris 1975). Pruned trials count with their last rate plus the mean gain of those that continued. The noise
    is the residual of the two-way layout of trials and rows in the first rung, since trials share their rows.
    """
    rates = {
        trial.number: _projected_rate(board, trial.number, rung) for trial in board.trials if board.last_rung(trial.number) >= 0
    }
    mean = fmean(rates.values())
    if len(rates) < 4:  # the estimator needs at least four trials
        return board.results[number, rung].rate
    spread = sum((rate - mean) ** 2 for rate in rates.values())
    noise = _noise(board)
    kept = max(0.0, 1 - (len(rates) - 3) * noise / spread) if spread > 0 else 0.0
    return mean + kept * (rates[number] - mean)


def _projected_rate(board: Board, number: int, rung: int) -> float:
    """Return a trial's last rate, plus the mean gains of the trials that continued up to ``rung``."""
    last = board.last_rung(number)
    rate = board.results[number, min(last, rung)].rate
    for step in range(last, rung):
        continued = [trial.number for trial in board.trials if (trial.number, step + 1) in board.results]
        gains = [board.results[one, step + 1].rate - board.results[one, step].rate for one in continued]
        rate += fmean(gains) if gains else 0.0
    return rate


def _noise(board: Board) -> float:
    """Return the variance of a trial's rate around the rates of the others that is due to the choice of rows."""
    import numpy as np  # the command line's help does not need it

    table = np.array([board.results[trial.number, 0].passed for trial in board.trials if (trial.number, 0) in board.results], float)
    trials, rows = table.shape
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (rows - 1) * (trials - 1)
    return float((residuals**2).sum()) / freedom / rows if freedom else 0.0
