"""The budget of a search (time, energy, or optimizer steps), and its price before it starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mlxtune.core.errors import RecipeError
from mlxtune.evaluation.arms import BASE, ENDPOINT, TUNED, arm_names
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.planning.plan import Plan
from mlxtune.planning.training_rule import by_rule
from mlxtune.recipe import Recipe
from mlxtune.recipe.schema import BUDGET_PATTERN
from mlxtune.runs.events import Event
from mlxtune.training.search.board import cohort_sizes, rung_lengths, rung_steps
from mlxtune.training.search.space import Choices, search_space

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
PAUSE = 15.0  # seconds; a longer gap between events, which include heartbeats, means that the worker did not run

Unit = Literal["seconds", "Wh", "steps"]


@dataclass(frozen=True)
class Budget:
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
    unit: Unit = "seconds" if match[2] in SECONDS else "Wh" if match[2] == "Wh" else "steps"
    return Budget(float(match[1]) * SECONDS.get(match[2], 1.0), unit)


def active_seconds(events: Iterable[Event]) -> float:
    """Return how many seconds a run's worker has been active, excluding pauses and the time between a crash and the resumption."""
    active, waiting = 0.0, False
    for early, late in itertools.pairwise(events):
        waiting = early["type"] == "run.waiting" or (waiting and early["type"] == "heartbeat")
        gap = late["t"] - early["t"]
        active += gap if 0 < gap <= PAUSE and not waiting else 0.0
    return active


CHANCE = 0.05  # another trial is hardly worth its time if the probability that it beats all earlier ones is lower


@dataclass(frozen=True)
class SearchPrice:
    trials: int
    steps: int
    full_steps: int  # if each trial trained to its end
    epochs_vary: bool  # the steps are then expected values
    answers: int  # to validation rows after each rung, and those of the evaluation at the end
    seconds: float | None  # in all; ``None`` if unknown
    answering_seconds: float | None  # for the answers
    kilowatt_hours: float | None
    enough: int  # of so many trials, each additional one is the best of all with a probability of at most CHANCE
    enough_seconds: float | None


def price_search(recipe: Recipe, plan: Plan, *, answering: float | None = None, watts: float = 0.0) -> SearchPrice:
    """Return the price of a search of ``recipe``, whose run has ``plan``. ``answering`` is the measured time of an answer, in seconds.

    Trials are spread over their ranges independently of the results, so the best of n + 1 is the last one with a probability of
    1 / (n + 1).
    """
    trials, enough = recipe.search.trials, math.ceil(1 / CHANCE) - 1
    steps, answers = _work(recipe, plan, trials)

    def time(steps: int, answers: int) -> float | None:
        if plan.cost.seconds is None:
            return None
        return plan.cost.seconds * steps / max(1, plan.steps) + answers * (answering or 0.0)

    seconds, enough_seconds = time(steps, answers), time(*_work(recipe, plan, enough))
    return SearchPrice(
        trials, steps, round(_total_length(recipe, plan, trials) * plan.steps), set(_trial_epochs(recipe, plan)) != {recipe.training.epochs or 1}, answers, seconds, answers * answering if answering is not None else None,
        seconds * watts / 3.6e6 if seconds is not None and watts else None, enough, enough_seconds,
    )  # fmt: skip


def _work(recipe: Recipe, plan: Plan, trials: int) -> tuple[int, int]:
    """Return the steps of a search with ``trials`` trials, and the answers to validation rows, held-out rows, and off-task prompts."""
    lengths, section = rung_steps(recipe.training, rung_lengths(plan.steps)), recipe.evaluation
    sizes = cohort_sizes(trials, len(lengths))
    rows = max(plan.valid, round(recipe.search.validation * (plan.train + plan.valid + plan.test)))
    names = arm_names(recipe)
    arms = sum(not arm.startswith(ENDPOINT) for arm in names)
    off_task = len(load_prompts(recipe)) * len({BASE, TUNED} & {*names}) * (1 + section.regression_system)
    held_out = plan.evaluated * arms
    steps = sum(length * _total_length(recipe, plan, count) for count, length in zip(sizes, lengths, strict=True))
    return round(steps), rows * sum(sizes) + held_out + off_task


def _total_length(recipe: Recipe, plan: Plan, trials: int) -> float:
    """Return the expected length of ``trials`` trials together, where 1 is the length of the recipe, which is one of them."""
    return 1 + (trials - 1) * fmean(_trial_epochs(recipe, plan)) / (recipe.training.epochs or 1)


def _trial_epochs(recipe: Recipe, plan: Plan) -> list[float]:
    """Return the numbers of epochs that trials other than the recipe itself are drawn from."""
    epochs = search_space(by_rule(recipe, 1, max(1, plan.train)), 1).get("epochs")
    return [float(count) for count in epochs.values] if isinstance(epochs, Choices) else [float(recipe.training.epochs or 1)]
