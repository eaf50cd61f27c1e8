"""The cost of a search, estimated before it starts: steps, time, energy, and the number of trials after which more are unlikely to
help."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlxtune.core.text import duration, plural
from mlxtune.recipe import Recipe
from mlxtune.training.search.board import cohort_sizes
from mlxtune.training.search.rungs import rung_steps

CHANCE = 0.05  # that a further trial is better than all earlier ones, below which it is hardly worth its time


@dataclass(frozen=True)
class SearchPrice:
    """The optimizer steps of ``trials`` trials, ``full_steps`` if each trained to the end, and the time and energy, if known.

    The time is that of the training steps; it does not include answering the validation rows. Of ``enough`` trials, each further
    one is the best of all with a probability of at most :data:`CHANCE`.
    """

    trials: int
    steps: int
    full_steps: int
    seconds: float | None
    kilowatt_hours: float | None
    enough: int
    enough_seconds: float | None

    def describe(self) -> tuple[str, str]:
        """Return a sentence about the search's cost, and one about its budget."""
        time = f", about {duration(self.seconds)}" if self.seconds is not None else ""
        energy = f", {1000 * self.kilowatt_hours:,.0f} Wh" if self.kilowatt_hours is not None else ""
        price = f"{plural(self.trials, 'trial')} take {self.steps:,} steps instead of {self.full_steps:,}{time}{energy}"
        long = f" ({duration(self.enough_seconds)})" if self.enough_seconds is not None else ""
        return price, f"from {self.enough} trials{long} on, a further one is the best of all with at most {CHANCE:.0%} probability"


def price_search(recipe: Recipe, total: int, seconds: float | None, kilowatt_hours: float | None) -> SearchPrice:
    """Return the cost of a search of ``recipe``, whose run takes ``total`` steps, ``seconds`` and ``kilowatt_hours``.

    Trials are spread over their ranges independently of the results, so the best of n + 1 is the last one with a probability of
    1 / (n + 1).
    """
    trials, enough = recipe.search.trials, math.ceil(1 / CHANCE) - 1
    steps, more = (_steps(recipe, total, count) for count in (trials, enough))

    def share(whole: float | None, part: int) -> float | None:
        return whole * part / total if whole is not None and total else None

    return SearchPrice(
        trials, steps, trials * total, share(seconds, steps), share(kilowatt_hours, steps), enough, share(seconds, more)
    )  # fmt: skip


def _steps(recipe: Recipe, total: int, trials: int) -> int:
    steps = rung_steps(recipe.training, total)
    return sum(count * length for count, length in zip(cohort_sizes(trials, len(steps)), steps, strict=True))
