"""Suggest recipe changes for a run that does not fit, least harmful first, each with the resulting peak memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, smaller_batches
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import toml_literal

_WINDOW_QUANTILES = (0.95, 0.9, 0.75, 0.5)  # fraction of rows that are not truncated when the window shrinks


Disadvantage = Literal[
    "slower_steps", "more_passes", "truncated_rows", "fewer_layers", "less_capacity", "rounded_weights", "smaller_base"
]


@dataclass(frozen=True)
class MemoryChange:
    """A change that lowers the peak memory, on top of earlier changes."""

    settings: tuple[str, ...]  # for --set; empty if only a smaller base would help
    disadvantage: Disadvantage
    peak: int  # the resulting peak memory in bytes
    fits: bool
    truncated: int = 0  # rows that a shorter window truncates
    largest_weights: int = 0  # bytes of weights that would fit, for a smaller base


Estimator = Callable[[Recipe], MemoryEstimate]
Changes = list[MemoryChange]
_Options = Iterator[tuple[dict[str, Any], Disadvantage, int]]  # new values by key, their disadvantage, and the truncated rows


def suggest_changes(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes, estimator: Estimator, limit: int) -> Changes:
    """Return changes, each on top of the previous ones, until the recipe fits in ``limit`` bytes or needs a smaller model."""
    changes: Changes = []
    current = estimator(recipe)
    for options in (_checkpointing, _smaller_batch, _shorter_window, _fewer_layers, _lower_rank, _quantization):
        best: tuple[Recipe, MemoryChange] | None = None
        for values, disadvantage, truncated in options(recipe, lengths, shapes):
            candidate = recipe
            for key, value in values.items():
                section, _, name = key.partition(".")
                candidate = replace(candidate, **{section: replace(getattr(candidate, section), **{name: value})})
            peak = estimator(candidate).total
            if peak < current.total:
                settings = tuple(f"{key}={toml_literal(value)}" for key, value in values.items())
                best = candidate, MemoryChange(settings, disadvantage, peak, peak <= limit, truncated)
                if best[1].fits:
                    break
        if best:
            recipe, change = best
            current = estimator(recipe)
            changes.append(change)
            if change.fits:
                return changes
    room = max(0, limit - (current.total - current.weights))
    return [*changes, MemoryChange((), "smaller_base", 0, True, largest_weights=room)]


def _checkpointing(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    if recipe.training.grad_checkpoint is not True and shapes.can_checkpoint:
        yield {"training.grad_checkpoint": True}, "slower_steps", 0


def _smaller_batch(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    name = "batch_size" if recipe.training.batch_size else "batch_tokens"
    longest = min(recipe.data.max_tokens, max(row.full for row in lengths.train))
    for bound, accumulate in smaller_batches(recipe.training, longest):
        yield {f"training.{name}": bound, "training.accumulate": accumulate}, "more_passes", 0


def _shorter_window(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    known = sorted(row.full for row in (*lengths.train, *lengths.valid))
    for quantile in _WINDOW_QUANTILES:
        window = known[int(quantile * (len(known) - 1))]
        if lengths.shortest_window <= window < min(recipe.data.max_tokens, known[-1]):
            yield {"data.max_tokens": window}, "truncated_rows", lengths.count_truncated(window)


def _fewer_layers(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    count = shapes.depth if recipe.adapter.layers == "all" else min(recipe.adapter.layers, shapes.depth)
    while count > 4:
        count = max(4, count // 2)
        yield {"adapter.layers": count}, "fewer_layers", 0


def _lower_rank(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    rank = recipe.adapter.rank
    while rank > 4:
        rank = max(4, rank // 2)
        yield {"adapter.rank": rank}, "less_capacity", 0


def _quantization(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    if not recipe.model.quantize and not any(weight.bits for weight in shapes.weights):
        yield {"model.quantize": 4}, "rounded_weights", 0
