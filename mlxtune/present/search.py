"""The words and the document of a search: its leaderboard, its decision, and its price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.blocks import Block, Cell, Column, Document, Fact, Facts, IntervalBar, Style, Table, text
from mlxtune.present.labels import percent
from mlxtune.present.words import WORDS
from mlxtune.training.search.board import INCUMBENT
from mlxtune.training.search.space import PARAMETERS, Value

if TYPE_CHECKING:  # their imports would delay the app's first screen
    from mlxtune.training.search.budget import SearchPrice
    from mlxtune.training.search.leaderboard import Entry, Leaderboard, Trend, TrialStatus

_GLYPHS: dict[TrialStatus, tuple[str, Style]] = {
    "selected": ("✓", "success"), "tied": ("≈", "muted"), "finished": ("·", "muted"), "training": ("●", "primary"),
    "waiting": ("○", "faint"), "pinned": ("◆", "primary"), "failed": ("✗", "error"),
}  # fmt: skip
_OUT: frozenset[TrialStatus] = frozenset({"pruned", "not_started", "not_continued", "dropped"})


def value_text(value: Value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2g}" if value >= 0.01 or not value else f"{value:.1e}".replace("e-0", "e-")


def values_text(values: Mapping[str, Value]) -> str:
    """Return a trial's values in a short form: ``lr 3.1e-4, rank 16, layers 8``."""
    return ", ".join(f"{one.label} {value_text(values[one.name])}" for one in PARAMETERS if one.name in values)


def decision_text(outcome: str, selected: int, tied: int, compared: int) -> str:
    """Describe a decision in one or two sentences: ``tied`` of the ``compared`` trials cannot be told apart from the best one."""
    if compared == 1:
        return f"Only trial {selected} has a result, so there is nothing to compare it with."
    if outcome == "no_difference":
        own = " is the recipe itself and" if selected == INCUMBENT else ""
        place = "is the cheapest"
        if tied < compared:  # the others were pruned, or the budget was spent before they were trained as long
            place = f"is the cheapest of the {tied} trained longest" if tied > 1 else "was trained longest"
        return f"{plural(compared, 'trial')} cannot be told apart. Trial {selected}{own} {place}."
    among = f" It is the cheapest of {tied} that cannot be told apart." if tied > 1 else ""
    if outcome == "improved":
        return f"Trial {selected} is better than the recipe.{among}"
    if selected == INCUMBENT:
        return f"No trial is better than the recipe.{among}"
    return f"Trial {selected} is selected, but it cannot be told apart from the recipe.{among}"


def standing_text(standing: Mapping[str, Any]) -> str:
    """Return why a trial was pruned, from the fields of a :class:`Standing`."""
    if standing["is_worse"]:
        low, change, high = (round(100 * standing[name]) for name in ("low", "change", "high"))
        return f"{plural(change, 'point')} below trial {standing['best']} ({low} to {high})"
    return f"ranked {standing['place']} of {standing['trials']}; cannot be told apart from trial {standing['best']}"


def entry_note(board: Leaderboard, entry: Entry) -> str:
    own = "the recipe itself" if entry.number == INCUMBENT else ""
    match entry.status:
        case "failed":
            return one_line(entry.error)
        case "training":
            return f"training to step {entry.next_steps:,}"
        case "selected":
            return f"selected; {own}" if own else "selected"
        case "tied" if board.decision and entry.number == board.decision.best:
            return "the best rate, but not the cheapest"
        case "tied" if board.decision:
            return f"tied with trial {board.decision.best}{f'; {own}' if own else ''}"
        case "pruned" if entry.standing:
            return standing_text(vars(entry.standing))
    return own if entry.status == "not_continued" and own else WORDS.trials.get(entry.status, own)


def search_document(board: Leaderboard) -> Document:
    blocks: list[Block] = [leaderboard_table(board)]
    if board.trends:
        rows = (
            (Cell(one.label, "muted"), Cell(value_text(one.lowest)), Cell(f"to {value_text(one.highest)}"), Cell(trend_text(one)))
            for one in board.trends
        )
        note = "trend of the rate over the range in the first rung, with its 95% interval"
        blocks.append(Table("hyperparameters", note, (Column(), Column(right=True), Column(), Column()), tuple(rows)))
    return (*blocks, *decision_blocks(board))


def decision_blocks(board: Leaderboard) -> tuple[Block, ...]:
    decision = board.decision
    if decision is None:
        return ()
    sentence = decision_text(decision.outcome, decision.selected, len(decision.tied), decision.compared)
    shown = text(sentence, "bold", "success") if board.outcome else text(f"So far: {sentence}", "bold", "primary")
    if board.outcome and (rate := board.outcome.held_out):
        return shown, Facts((
            Fact("validation", percent(decision.rate), f"{_limits(decision.low, decision.high)}; optimistic"),
            Fact("adjusted", percent(decision.shrunken), "for the selection"),
            Fact("held-out", percent(rate.share), f"{_limits(rate.low, rate.high)}; evaluated once"),
        ))  # fmt: skip
    return (shown,)


def leaderboard_table(board: Leaderboard, *, alive: bool = True) -> Table:
    """Return the trials with their values, rates, and places. Nothing trains unless the search is ``alive``."""
    parameters = [Column(name, right=True) for name in board.parameters]
    figures = [Column("steps", right=True), Column("rate", right=True), Column("0 to 100%", priority=1)]
    columns = (Column(), Column("trial", right=True), *parameters, *figures, Column("95% interval", priority=1))
    rows = []
    for entry in board.entries:
        stopped = entry.status == "training" and not alive
        glyph, color = _GLYPHS["waiting"] if stopped else _GLYPHS.get(entry.status, ("×", "muted"))
        style: Style = "muted" if entry.status in _OUT or entry.rate is None else ""
        bar = None if entry.rate is None else IntervalBar(entry.low, entry.rate, entry.high)
        rows.append((
            Cell(glyph, color), Cell(str(entry.number), style), *(Cell(value_text(value), style) for value in entry.values),
            Cell(f"{entry.steps:,}" if entry.steps else "", "muted"), Cell("" if entry.rate is None else percent(entry.rate), style),
            Cell(bar=bar), Cell("" if bar is None else _limits(entry.low, entry.high), "muted"),
            Cell("" if entry.loss is None else f"{entry.loss:.3f}", style),
            Cell("next" if stopped else entry_note(board, entry), "error" if entry.status == "failed" else "muted"),
        ))  # fmt: skip
    return Table("leaderboard", f"{board.rows} validation rows", (*columns, Column("loss", True, 1), Column()), tuple(rows))


def trend_text(trend: Trend) -> str:
    low, change, high = (f"{round(100 * share):+d}".replace("-", "−") for share in (trend.low, trend.change, trend.high))
    return f"{change} points ({low} to {high})"


def _limits(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def price_text(price: SearchPrice) -> tuple[str, str]:
    """Return what a search takes, and the budget after which another trial is unlikely to help."""
    varied = ", which differ in epochs," if price.epochs_vary else ""
    words = f"{plural(price.trials, 'trial')}{varied} take {price.steps:,} steps ({price.full_steps:,} if none stopped early)"
    words += f" and {price.answers:,} answers"
    if price.seconds is not None:
        words += f", about {duration(price.seconds)}"
        if price.answering_seconds is None:
            words += " without the answers (mlxtune eval measures their time)"
        else:
            words += f", of which {duration(price.answering_seconds)} for the answers"
    if price.kilowatt_hours is not None:
        words += f"; {1000 * price.kilowatt_hours:,.0f} Wh"
    options = f"--trials {price.enough}"
    if price.enough_seconds is not None and price.answering_seconds is not None:
        options += f" --budget {math.ceil(price.enough_seconds / 60)}m"
    return words, f"with {options}, each further trial has at most a {1 / (price.enough + 1):.0%} chance of being the best"
