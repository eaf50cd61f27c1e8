"""Which adapter a recipe means when it names its parent."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.errors import RecipeError
from mlxtune.recipe import Recipe
from mlxtune.recipe.parent import CONFIG, inherit
from mlxtune.runs import registry


def resolve(workspace: Path, recipe: Recipe) -> Recipe:
    """``recipe`` as a child of the adapter it names, if it names one: a folder, a run, or the recipe whose newest run has one.

    Raises ``RecipeError`` when there is no such adapter.
    """
    named = recipe.adapter.parent
    return inherit(recipe, _folder(workspace, recipe, named)) if named else recipe


def _folder(workspace: Path, recipe: Recipe, named: str) -> Path:
    for folder in (recipe.path(named), recipe.path(named) / "adapter"):
        if (folder / CONFIG).is_file():
            return folder
    runs = registry.all_runs(workspace)
    for run in runs:
        if run.id == named and (run.adapter / CONFIG).is_file():
            return run.adapter
    for run in runs:
        if (run.adapter / CONFIG).is_file() and run.recipe().name == named:
            return run.adapter
    raise RecipeError(
        f"adapter.parent: there is no adapter {named}, no run of that name, and no finished run of a recipe called so.",
        mend="Train its recipe first, or name the folder of an adapter.",
    )
