"""Measure whether generated rows help: the same recipe trained with and without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.source import read_source
from mlxtune.data.split import record_splits, split
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side
from mlxtune.recipe import Recipe
from mlxtune.runs.registry import Run


@dataclass(frozen=True)
class GeneratedVariants:
    """A recipe without and with the generated rows of its source. Both variants have the same held-out rows.

    ``own`` and ``generated`` count the training rows.
    """

    without: Recipe
    with_generated: Recipe
    own: int
    generated: int


def generated_variants(recipe: Recipe) -> GeneratedVariants:
    """Return both variants of ``recipe``, and record the split. Raises ``InputError`` if no generated row is accepted."""
    without, with_generated = (replace(recipe, data=replace(recipe.data, generated=value)) for value in (False, True))
    source = read_source(recipe.source, recipe.data.format, recipe.data.map)
    splits = split(source, with_generated.data)
    generated = sum(lineage_of(row) is not None for row in splits.train)
    if not generated:
        raise InputError(
            f"No generated row of {recipe.source.name} is accepted, so there is nothing to compare.",
            hint=f'Review them: mlxtune data review {recipe.source} --list --filter "status:proposed"',
        )
    record_splits(source, with_generated.data, splits)
    return GeneratedVariants(without, with_generated, len(splits.train) - generated, generated)


def compare_generated(
    workspace: Path, variants: GeneratedVariants, trained: Callable[[Recipe], Run], evaluated: Callable[[Recipe, Run], Path]
) -> tuple[EvaluationComparison, tuple[int, int]]:
    """Compare the variant with generated rows with the one without, and return the result and the training steps of both.

    ``trained`` returns a finished run of a recipe, and ``evaluated`` the folder of a finished evaluation of it. Raises their errors. The
    steps of the variant without generated rows come first. The token limit of answers may depend on the training rows, so the limit of the first evaluation applies to both.
    """
    without, with_generated = trained(variants.without), trained(variants.with_generated)
    second = evaluated(variants.with_generated, with_generated)
    limit = reports.load(second).facts["decoding"]["max_tokens"]
    same_limit = replace(variants.without, evaluation=replace(variants.without.evaluation, max_tokens=limit))
    first = evaluated(same_limit, without)
    result = compare_evaluations(find_side(workspace, str(first)), find_side(workspace, str(second)))
    return result, (without.state().total, with_generated.state().total)
