"""The decision of a search: which trials can be told apart, which one is selected, and how optimistic its validation rate is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mlxtune.core.text import plural
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.statistics.significance import holm
from mlxtune.evaluation.verdict import LEVEL, Comparison, compare
from mlxtune.training.search.board import INCUMBENT, Board

SearchOutcome = Literal["improved", "not improved", "no difference"]


@dataclass(frozen=True)
class SearchDecision:
    """``selected`` is the cheapest of the trials that cannot be told apart from ``best`` at ``rung`` (starting at 0).

    ``improved`` means that the selected trial is better than the recipe itself, after adjusting for the number of trials;
    ``no difference`` that no trial differs from the best one. ``rate`` is the selected trial's validation rate with its interval,
    and ``shrunken`` an estimate that accounts for the selection.
    """

    outcome: SearchOutcome
    best: int
    selected: int
    rung: int
    tied: tuple[int, ...]
    rate: float
    low: float
    high: float
    shrunken: float
    sentence: str


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
    tied = [number for number in ranking if number == best or _is_tied(board, number, best, rung)]
    selected = min(tied, key=lambda number: (board.trial(number).cost, number != INCUMBENT, ranking.index(number)))
    result = board.results[selected, rung]
    size = effective_n(result.passed, board.plan.groups)
    low, high = wilson(sum(result.passed), len(result.passed), effective_n=size)
    outcome: SearchOutcome = "not improved"
    if selected != INCUMBENT and (INCUMBENT, rung) in board.results:
        gain = compare_trials(board, INCUMBENT, selected, rung)
        if gain.change > 0 and gain.p * max(1, len(others)) < LEVEL:
            outcome = "improved"
    if outcome != "improved" and all(p >= LEVEL for p in adjusted.values()):
        outcome = "no difference"
    shrunken = shrunken_rate(board, selected, rung)
    sentence = _sentence(outcome, board, selected, len(others) + 1, tied)
    return SearchDecision(outcome, best, selected, rung, tuple(tied), result.rate, low, high, shrunken, sentence)


def compare_trials(board: Board, first: int, second: int, rung: int) -> Comparison:
    """Compare two trials on the validation rows after the same rung."""
    one, two = board.results[first, rung], board.results[second, rung]
    passed = list(zip(one.passed, two.passed, strict=True))
    return compare(CONTRACT, f"trial {first}", f"trial {second}", passed, board.plan.groups)


def why_pruned(board: Board, number: int) -> str:
    """Return why a trial did not continue after its last rung: its difference from the best trial there."""
    rung = board.last_rung(number)
    ranking = board.ranking(rung)
    best, place = ranking[0], ranking.index(number) + 1
    item = compare_trials(board, number, best, rung)
    low, change, high = (round(100 * value) for value in (item.low, item.change, item.high))
    if item.outcome == "better":
        return f"{plural(change, 'point')} below trial {best} ({low} to {high})"
    return f"ranked {place} of {len(ranking)}; cannot be told apart from trial {best}"


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
    results = [board.results[trial.number, 0].passed for trial in board.trials if (trial.number, 0) in board.results]
    rows = len(results[0])
    row_means = [fmean(column) for column in zip(*results, strict=True)]
    trial_means = [fmean(passed) for passed in results]
    total = fmean(trial_means)
    squares = sum(
        (value - row_means[index] - trial_mean + total) ** 2
        for passed, trial_mean in zip(results, trial_means, strict=True)
        for index, value in enumerate(passed)
    )
    freedom = (rows - 1) * (len(results) - 1)
    return squares / freedom / rows if freedom else 0.0


def _is_tied(board: Board, number: int, best: int, rung: int) -> bool:
    return compare_trials(board, number, best, rung).outcome == "cannot tell"


def _sentence(outcome: SearchOutcome, board: Board, selected: int, trials: int, tied: Sequence[int]) -> str:
    """Describe the decision in a sentence or two."""
    if trials == 1:
        return f"Only trial {selected} has a result, so there is nothing to compare it with."
    if outcome == "no difference":
        own = " is the recipe itself and" if selected == INCUMBENT else ""
        place = "is the cheapest"
        if len(tied) < trials:  # the others were pruned, or the budget was spent before they were trained as long
            place = f"is the cheapest of the {len(tied)} trained longest" if len(tied) > 1 else "was trained longest"
        return f"{plural(trials, 'trial')} cannot be told apart. Trial {selected}{own} {place}."
    rest = len(tied) - 1
    among = f" It is the cheapest of {rest + 1} that cannot be told apart." if rest else ""
    if outcome == "improved":
        return f"Trial {selected} is better than the recipe.{among}"
    if selected == INCUMBENT:
        return f"No trial is better than the recipe.{among}"
    return f"Trial {selected} is selected, but it cannot be told apart from the recipe.{among}"
