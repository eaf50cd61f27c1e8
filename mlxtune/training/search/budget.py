"""The budget of a search: time, energy, or optimizer steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlxtune.core.errors import RecipeError
from mlxtune.recipe.schema import BUDGET_PATTERN
from mlxtune.runs.events import Event

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
PAUSE = 15.0  # seconds; a longer gap between events, which include heartbeats, means that the worker did not run

Unit = Literal["seconds", "Wh", "steps"]


@dataclass(frozen=True)
class Budget:
    """A limit for all trials of a search, in ``unit``."""

    amount: float
    unit: Unit


def parse_budget(text: str) -> Budget | None:
    """Parse ``30m``, ``2h``, ``50Wh``, or ``500 steps``; ``None`` if it is empty. Raise ``RecipeError`` if it is invalid."""
    if not text:
        return None
    match = BUDGET_PATTERN.fullmatch(text)
    if not match or not float(match[1]):
        raise RecipeError(
            f"Invalid budget: {text}.", hint="Use a time (30m, 2h), an energy (50Wh), or a number of steps (500 steps)."
        )
    amount, unit = float(match[1]), match[2]
    if unit in SECONDS:
        return Budget(amount * SECONDS[unit], "seconds")
    return Budget(amount, "Wh" if unit == "Wh" else "steps")


def active_seconds(events: Iterable[Event]) -> float:
    """Return how many seconds a run's worker has been active, excluding pauses and the time between a crash and the resumption."""
    active, waiting = 0.0, False
    for early, late in itertools.pairwise(events):
        waiting = early["type"] == "run.waiting" or (waiting and early["type"] == "heartbeat")
        gap = late["t"] - early["t"]
        active += gap if 0 < gap <= PAUSE and not waiting else 0.0
    return active
