"""Runs of one recipe that differ only in the training seed, or in whether they train on generated rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.source import read_source
from mlxtune.data.split import recipe_splits, record_splits, split
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side
from mlxtune.recipe import EvaluationSection, Recipe, dump, read_template
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import registry
from mlxtune.runs.registry import Run


def seed_recipes(recipe: Recipe, count: int) -> list[Recipe]:
    """Return ``count`` recipes with consecutive seeds, starting with the recipe's own."""
    return [replace(recipe, training=replace(recipe.training, seed=recipe.training.seed + index)) for index in range(count)]


def trained_seeds(workspace: Path, recipe: Recipe) -> dict[int, Run]:
    """Return the newest finished run of ``recipe`` on its current rows by seed. Raise ``InputError`` if they cannot be read."""
    splits = recipe_splits(recipe)
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
        recipe, training=replace(recipe.training, seed=0), data=replace(recipe.data, date=""),
        model=replace(recipe.model, template=""), evaluation=EvaluationSection(),
    )  # fmt: skip
    return [dump(same), read_template(recipe)]


@dataclass(frozen=True)
class GeneratedVariants:
    """A recipe without and with the generated rows of its source. Both variants have the same held-out rows."""

    without: Recipe
    with_generated: Recipe
    own: int  # training rows
    generated: int


def generated_variants(recipe: Recipe) -> GeneratedVariants:
    """Return both variants of ``recipe``, and record the split. Raises ``InputError`` if no generated row is accepted."""
    without, with_generated = (replace(recipe, data=replace(recipe.data, generated=value)) for value in (False, True))
    source = read_source(recipe.source, recipe.data)
    splits = split(source, with_generated.data)
    generated = sum(lineage_of(row) is not None for row in splits.train)
    if not generated:
        hint = f'Review them: mlxtune data review {recipe.source} --list --filter "status:proposed"'
        raise InputError(f"No generated row of {recipe.source.name} is accepted, so there is nothing to compare.", hint=hint)
    record_splits(source, with_generated.data, splits)
    return GeneratedVariants(without, with_generated, len(splits.train) - generated, generated)


def compare_generated(
    workspace: Path, variants: GeneratedVariants, trained: Callable[[Recipe], Run], evaluated: Callable[[Recipe, Run], Path]
) -> tuple[EvaluationComparison, tuple[int, int]]:
    """Compare the variant with generated rows with the one without, and return the result and the training steps of both.

    ``trained`` returns a finished run of a recipe, and ``evaluated`` the folder of a finished evaluation of it. Raises their errors.
    The token limit of answers may depend on the training rows, so that of the first evaluation applies to both.
    """
    without, with_generated = trained(variants.without), trained(variants.with_generated)
    second = evaluated(variants.with_generated, with_generated)
    limit = reports.load(second).facts["decoding"]["max_tokens"]
    same_limit = replace(variants.without, evaluation=replace(variants.without.evaluation, max_tokens=limit))
    first = evaluated(same_limit, without)
    result = compare_evaluations(find_side(workspace, str(first)), find_side(workspace, str(second)))
    return result, (without.state().total, with_generated.state().total)
