"""The leaderboard of a search, as the command line and the app show it. Imports no mlx."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.files import read_json
from mlxtune.core.versions import require_version
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.report import Rate
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.training.search.board import OUTCOME, OUTCOME_VERSION, Board, read_board
from mlxtune.training.search.decision import SearchDecision, Standing, decide, standing
from mlxtune.training.search.importance import Trend, trends
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
    """The decision of a finished search, the run with the selected adapter, and its evaluation, as IDs.

    ``held_out`` is the adapter's contract rate on the held-out rows, ``None`` until it is evaluated.
    """

    decision: SearchDecision
    run: str
    evaluation: str
    held_out: Rate | None


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
    return Leaderboard(
        tuple(parameter.label for parameter in names), len(board.plan.rows), tuple(entries), board.trained_steps,
        decision, outcome, tuple(_places(board, parameter.name) for parameter in names),
        tuple(_ends(board, parameter.name) for parameter in names), trends(board),
    )  # fmt: skip


def _places(board: Board, name: str) -> dict[int, float]:
    numbers = log_scale([trial.values[name] for trial in board.plan.trials])
    low, high = min(numbers), max(numbers)
    return {
        trial.number: (number - low) / (high - low) if high > low else 0.5
        for trial, number in zip(board.plan.trials, numbers, strict=True)
    }  # fmt: skip


def _ends(board: Board, name: str) -> tuple[Value, Value]:
    values = [trial.values[name] for trial in board.plan.trials]
    order = sorted(zip(log_scale(values), values, strict=True), key=lambda pair: (pair[0], str(pair[1])))
    return order[0][1], order[-1][1]


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
    arms = {arm.name: arm for arm in reports.load(folder).arms}
    return next((rate for rate in arms[TUNED].rates if rate.metric == CONTRACT), None) if TUNED in arms else None
