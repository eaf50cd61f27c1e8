"""Measure whether generated rows help: the same recipe trained with and without them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlxtune.core.errors import InputError
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.source import read_source
from mlxtune.data.split import record_splits, split
from mlxtune.recipe import Recipe


@dataclass(frozen=True)
class GeneratedVariants:
    """A recipe that trains on the rows of its source only, and on the generated rows, too. Their held-out rows are the same.

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
