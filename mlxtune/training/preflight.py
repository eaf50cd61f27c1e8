"""Check that a recipe can be trained or searched, before its run is started. Imports no mlx."""

from pathlib import Path

from mlxtune.core.child_process import Progress
from mlxtune.core.errors import RecipeError
from mlxtune.data.replay import replay_prompts
from mlxtune.data.rows import PromptRow
from mlxtune.data.split import Splits, recipe_splits
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.models.resolve import resolve
from mlxtune.planning.cost import typical_watts
from mlxtune.planning.machine import this_machine
from mlxtune.planning.training_rule import apply_rule, example_count, model_width
from mlxtune.recipe import Recipe
from mlxtune.runs import registry
from mlxtune.runs.locks import require_free_accelerator
from mlxtune.training.search.budget import parse_budget


def check_recipe(recipe: Recipe) -> Splits:
    """Return the recipe's rows. Raise ``InputError`` if they cannot be read or split, or if its contract or off-task prompts are invalid."""
    splits = recipe_splits(recipe)
    replay_prompts(recipe, splits.train)
    held_out = [row for row in (*splits.valid, *splits.test) if isinstance(row, PromptRow)]
    Contract.from_recipe(recipe).require_references(held_out)
    load_prompts(recipe)
    return splits


def preflight(workspace: Path, recipe: Recipe, progress: Progress = lambda what, share: None) -> Recipe:
    """Check everything that can be checked without loading the model, and download the base if it is missing.

    Return the recipe with its parent resolved and its training settings complete. Raise ``InputError`` if something cannot be used, and
    ``MachineError`` if another process holds the accelerator or the download fails.
    """
    recipe = registry.resolve_parent(workspace, recipe)
    splits = check_recipe(recipe)
    require_free_accelerator()
    base = resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
    return apply_rule(recipe, model_width(base.config), example_count(splits.train, recipe.data.max_tokens))


def require_searchable(recipe: Recipe) -> None:
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
        hint = "Add correct, a schema, disclaimers, forbidden phrases, or length limits to [evaluation]."
        raise RecipeError("A search compares trials by their answers, but the recipe has no contract.", hint=hint)
