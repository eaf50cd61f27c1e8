"""Check that a recipe can be searched, then start its search. Imports no mlx."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.child_process import Progress
from mlxtune.core.errors import RecipeError
from mlxtune.planning.cost import typical_watts
from mlxtune.planning.machine import this_machine
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.registry import Run
from mlxtune.training.search.budget import parse_budget
from mlxtune.training.start import preflight


def start(workspace: Path, recipe: Recipe, *, progress: Progress = lambda what, share: None) -> Run:
    """Start a search after the checks of :func:`mlxtune.training.start.preflight`, and return its run.

    Raise ``InputError`` if the recipe cannot be searched, and ``MachineError`` if another process holds the accelerator.
    """
    budget = parse_budget(recipe.search.budget)
    if budget and budget.unit == "Wh" and not typical_watts(this_machine().chip)[0]:
        raise RecipeError(
            "The power of this machine is unknown, so a budget in Wh cannot be enforced.", hint="Use a time: --budget 2h."
        )
    if recipe.search.trials < 2:
        raise RecipeError("A search needs at least 2 trials.", hint="Raise search.trials.")
    if recipe.search.epochs and recipe.training.steps:
        raise RecipeError("search.epochs has no effect, because training.steps is set.", hint="Set training.steps = 0.")
    if not recipe.has_contract:
        raise RecipeError(
            "A search compares trials by their contract rate, but the recipe has no contract.",
            hint="Add a schema, disclaimers, forbidden phrases, or length limits to [evaluation].",
        )
    return launch.start(workspace, "search", preflight(workspace, recipe, progress))
