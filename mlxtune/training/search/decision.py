"""The decision of a search: which trials can be told apart, which one is selected, and how optimistic its validation rate is."""

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import LEVEL, wilson
from mlxtune.evaluation.statistics.significance import holm
from mlxtune.evaluation.verdict import Comparison, compare
from mlxtune.training.search.board import INCUMBENT, Board

SearchOutcome = Literal["improved", "not_improved", "no_difference"]


@dataclass(frozen=True)
class SearchDecision:
    """Which trial a search selects, and why."""

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
    size = effective_n(result.passed, board.plan.groups)
    low, high = wilson(sum(result.passed), len(result.passed), effective_n=size)
    outcome: SearchOutcome = "not_improved"
    if selected != INCUMBENT and (INCUMBENT, rung) in board.results:
        gain = compare_trials(board, INCUMBENT, selected, rung)
        if gain.change > 0 and gain.p * max(1, len(others)) < LEVEL:
            outcome = "improved"
    if outcome != "improved" and all(p >= LEVEL for p in adjusted.values()):
        outcome = "no_difference"
    shrunken = shrunken_rate(board, selected, rung)
    return SearchDecision(outcome, best, selected, rung, tuple(tied), len(others) + 1, result.rate, low, high, shrunken)


def compare_trials(board: Board, first: int, second: int, rung: int) -> Comparison:
    """Compare two trials on the validation rows after the same rung."""
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
        gains = [
            board.results[trial.number, step + 1].rate - board.results[trial.number, step].rate
            for trial in board.trials
            if (trial.number, step + 1) in board.results
        ]
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
