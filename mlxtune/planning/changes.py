"""Suggest recipe changes for a run that does not fit, least harmful first, each with the resulting peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlxtune.core.text import plural, size
from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, smaller_batches
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import toml_literal

_WINDOW_QUANTILES = (0.95, 0.9, 0.75, 0.5)  # fraction of rows that are not truncated when the window shrinks


@dataclass(frozen=True)
class RecipeChange:
    """``settings`` for ``--set`` on top of earlier changes, the disadvantage (``cost``), and the resulting ``peak`` in bytes."""

    settings: tuple[str, ...]
    cost: str
    peak: int
    fits: bool


Estimator = Callable[[Recipe], MemoryEstimate]
_Options = Iterator[tuple[dict[str, Any], str]]  # new values by key, and their disadvantage


def suggest_changes(
    recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes, estimator: Estimator, limit: int
) -> list[RecipeChange]:
    """Return changes, each on top of the previous ones, until the recipe fits in ``limit`` bytes or needs a smaller model."""
    changes: list[RecipeChange] = []
    current = estimator(recipe)
    for options in (_checkpointing, _smaller_batch, _shorter_window, _fewer_layers, _lower_rank, _quantization):
        best: tuple[Recipe, RecipeChange] | None = None
        for values, cost in options(recipe, lengths, shapes):
            candidate = _with_values(recipe, values)
            peak = estimator(candidate).total
            if peak < current.total:
                settings = tuple(f"{key}={toml_literal(value)}" for key, value in values.items())
                best = candidate, RecipeChange(settings, cost, peak, peak <= limit)
                if best[1].fits:
                    break
        if best:
            recipe, change = best
            current = estimator(recipe)
            changes.append(change)
            if change.fits:
                return changes
    room = size(max(0, limit - (current.total - current.weights)))
    advice = f"a smaller base: weights of up to {room} fit; this base has {size(current.weights)}"
    return [*changes, RecipeChange((), advice, 0, True)]


def _checkpointing(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    if recipe.training.grad_checkpoint is not True and shapes.can_checkpoint:
        yield {"training.grad_checkpoint": True}, "steps take a third longer"


def _smaller_batch(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    name = "batch_size" if recipe.training.batch_size else "batch_tokens"
    longest = min(recipe.data.max_tokens, max(row.full for row in lengths.train))
    for bound, accumulate in smaller_batches(recipe.training, longest):
        yield {f"training.{name}": bound, "training.accumulate": accumulate}, "the same step in more passes"


def _shorter_window(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    known = sorted(row.full for row in (*lengths.train, *lengths.valid))
    for quantile in _WINDOW_QUANTILES:
        window = known[int(quantile * (len(known) - 1))]
        if lengths.shortest_window <= window < min(recipe.data.max_tokens, known[-1]):
            cost = f"{plural(lengths.count_truncated(window), 'row')} of {len(known):,} truncated"
            yield {"data.max_tokens": window}, cost


def _fewer_layers(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    count = shapes.depth if recipe.adapter.layers == "all" else min(recipe.adapter.layers, shapes.depth)
    while count > 4:
        count = max(4, count // 2)
        yield {"adapter.layers": count}, "fewer layers are trained"


def _lower_rank(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    rank = recipe.adapter.rank
    while rank > 4:
        rank = max(4, rank // 2)
        yield {"adapter.rank": rank}, "the adapter has less capacity"


def _quantization(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    if not recipe.model.quantize and not any(weight.bits for weight in shapes.weights):
        yield {"model.quantize": 4}, "the base uses rounded weights"


def _with_values(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    for key, value in values.items():
        section, _, name = key.partition(".")
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{name: value})})
    return recipe
