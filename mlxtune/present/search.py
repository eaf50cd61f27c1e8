"""The words and the document of a search: its leaderboard, its decision, and its price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import duration, one_line, plural
from mlxtune.training.search.board import INCUMBENT
from mlxtune.training.search.space import PARAMETERS, Value

if TYPE_CHECKING:  # their imports would delay the app's first screen
    from mlxtune.training.search.decision import SearchDecision
    from mlxtune.training.search.leaderboard import Entry, Leaderboard, TrialStatus
    from mlxtune.training.search.price import SearchPrice

STATUS_GLYPHS: dict[TrialStatus, tuple[str, str]] = {
    "selected": ("✓", "bold $success"), "tied": ("≈", "$muted"), "finished": ("·", "$muted"), "training": ("●", "bold $primary"),
    "waiting": ("○", "$faint"), "pinned": ("◆", "$second"), "pruned": ("×", "$muted"), "not_started": ("×", "$muted"),
    "not_continued": ("×", "$muted"), "failed": ("✗", "bold $error"), "dropped": ("×", "$muted"),
}  # fmt: skip


def value_text(value: Value) -> str:
    """Return a hyperparameter's value in a short form."""
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


def sentence(decision: SearchDecision) -> str:
    return decision_text(decision.outcome, decision.selected, len(decision.tied), decision.compared)


def standing_text(standing: Mapping[str, Any], *, brief: bool = False) -> str:
    """Return why a trial was pruned, from the fields of a :class:`Standing`."""
    if standing["is_worse"]:
        low, change, high = (round(100 * standing[name]) for name in ("low", "change", "high"))
        limits = "" if brief else f" ({low} to {high})"
        return f"{plural(change, 'point')} below trial {standing['best']}{limits}"
    place = f"ranked {standing['place']} of {standing['trials']}"
    return place if brief else f"{place}; cannot be told apart from trial {standing['best']}"


_NOTES: dict[TrialStatus, str] = {
    "dropped": "dropped", "pinned": "pinned", "not_started": "budget too small; not started", "not_continued": "budget spent; not continued",
}  # fmt: skip


def entry_note(board: Leaderboard, entry: Entry, *, brief: bool = False) -> str:
    """Return the reason for a trial's place on the leaderboard. ``brief`` leaves out what the other columns show, too."""
    own = "the recipe itself" if entry.number == INCUMBENT else ""
    match entry.status:
        case "failed":
            return one_line(entry.error)
        case "training":
            return f"training to step {entry.next_steps:,}"
        case "selected" if own:
            return "selected" if brief else f"selected; {own}"
        case "tied" if board.decision and entry.number == board.decision.best:
            return "the best rate, but not the cheapest"
        case "tied" if board.decision:
            return f"tied with trial {board.decision.best}{f'; {own}' if own and not brief else ''}"
        case "pruned" if entry.standing:
            return standing_text(vars(entry.standing), brief=brief)
        case "selected":
            return "selected"
    return own if entry.status == "not_continued" and own else _NOTES.get(entry.status, own)


def price_text(price: SearchPrice) -> tuple[str, str]:
    """Return what a search takes, and the budget after which another trial is unlikely to help."""
    varied = ", which differ in epochs," if price.epochs_vary else ""
    text = f"{plural(price.trials, 'trial')}{varied} take {price.steps:,} steps ({price.full_steps:,} if none stopped early)"
    text += f" and {price.answers:,} answers"
    if price.seconds is not None:
        text += f", about {duration(price.seconds)}"
        if price.answering_seconds is None:
            text += " without the answers, whose time is unknown until the first mlxtune eval"
        else:
            text += f", of which {duration(price.answering_seconds)} for the answers"
    if price.kilowatt_hours is not None:
        text += f"; {1000 * price.kilowatt_hours:,.0f} Wh"
    options = f"--trials {price.enough}"
    if price.enough_seconds is not None and price.answering_seconds is not None:
        options += f" --budget {math.ceil(price.enough_seconds / 60)}m"
    return text, f"with {options}, each further trial has at most a {1 / (price.enough + 1):.0%} chance of being the best"
