"""Runs of one recipe that differ only in the training seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlxtune.core.files import read_json
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.recipe import EvaluationSection, Recipe, dump, read_template
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import registry
from mlxtune.runs.registry import Run


def seed_recipes(recipe: Recipe, count: int) -> list[Recipe]:
    """Return ``count`` recipes with consecutive seeds, starting with the recipe's own."""
    return [replace(recipe, training=replace(recipe.training, seed=recipe.training.seed + index)) for index in range(count)]


def trained_seeds(workspace: Path, recipe: Recipe) -> dict[int, Run]:
    """Return the newest finished run of ``recipe`` on the rows that its source has now, for each seed, in their order.

    Raise ``InputError`` if the data cannot be read or split.
    """
    splits = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    used = {row.id for row in (*splits.train, *splits.valid)}, {row.id for row in splits.test}
    runs: dict[int, Run] = {}
    for run in registry.list_runs(workspace):  # newest first
        if not (run.adapter / WEIGHTS).is_file():
            continue
        other = run.recipe()
        if _without_seed(other) == _without_seed(recipe) and _used_rows(run) == used:
            runs.setdefault(other.training.seed, run)
    return dict(sorted(runs.items()))


def _used_rows(run: Run) -> tuple[set[str], set[str]]:
    """Return the IDs of the rows that a run trained or validated on or skipped, and of its held-out rows."""
    data = read_json(run.folder / "data.json")
    return {row["id"] for row in data["train"] if not row.get("replay")} | {*data["valid"], *data["skipped"]}, set(data["test"])


def _without_seed(recipe: Recipe) -> list[str]:
    """Return the settings that runs of the same recipe share. Evaluation settings and the day of training are not among them."""
    same = replace(
        recipe,
        training=replace(recipe.training, seed=0),
        data=replace(recipe.data, date=""),
        model=replace(recipe.model, template=""),
        evaluation=EvaluationSection(),
    )
    return [dump(same), read_template(recipe)]
