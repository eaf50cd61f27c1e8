"""Check that a recipe can be trained, then start its run. The CLI and the app both start training here. Imports no mlx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import Progress
from mlxtune.data.replay import replay_prompts
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe
from mlxtune.runs import launch, registry
from mlxtune.runs.locks import require_free_accelerator
from mlxtune.runs.registry import Run
from mlxtune.runs.status import ACTIVE


def check_recipe(recipe: Recipe) -> None:
    """Raise ``InputError`` if the recipe's data cannot be read or split, or if its contract or off-task prompts are invalid."""
    splits = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    replay_prompts(recipe, splits.train)
    Contract.from_recipe(recipe)
    load_prompts(recipe)


def preflight(workspace: Path, recipe: Recipe, progress: Progress = lambda what, share: None) -> Recipe:
    """Check everything that can be checked without loading the model, and download the base if it is missing.

    Return the recipe with its parent adapter resolved. Raise ``InputError`` if the recipe, its parent, data, contract or base
    cannot be used, and ``MachineError`` if another process holds the accelerator or the download fails.
    """
    recipe = registry.resolve_parent(workspace, recipe)
    check_recipe(recipe)
    require_free_accelerator()
    resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
    return recipe


def start(
    workspace: Path,
    recipe: Recipe,
    request: Mapping[str, Any] | None = None,
    *,
    progress: Progress = lambda what, share: None,
) -> Run:
    """Start a training run. If :func:`preflight` fails, nothing is written and its error is raised."""
    return launch.start(workspace, "train", preflight(workspace, recipe, progress), request)


def resume(run: Run, *, progress: Progress = lambda what, share: None) -> Run:
    """Resume a run from its newest checkpoint, after the checks of :func:`preflight`."""
    if run.kind == "train" and run.status() not in ACTIVE | {"finished"}:
        preflight(run.folder.parent.parent, run.recipe(), progress)
    return launch.resume(run)
