"""Suggest recipe changes for a run that does not fit, least harmful first, each with the resulting peak memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, smaller_batches
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import toml_literal
from mlxtune.recipe.schema import layer_count

_WINDOW_QUANTILES = (0.95, 0.9, 0.75, 0.5)  # fraction of rows that are not truncated when the window shrinks


Disadvantage = Literal[
    "slower_steps", "more_passes", "truncated_rows", "fewer_layers", "less_capacity", "rounded_weights", "smaller_base"
]  # the least harmful first


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
_Options = Iterator[tuple[dict[str, Any], int]]  # new values by key, and the rows that they truncate


def suggest_changes(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes, estimator: Estimator, limit: int) -> Changes:
    """Return changes, each on top of the previous ones, until the recipe fits in ``limit`` bytes or needs a smaller model."""
    changes: Changes = []
    current = estimator(recipe)
    for disadvantage in get_args(Disadvantage):
        best: tuple[Recipe, MemoryChange] | None = None
        for values, truncated in _options(disadvantage, recipe, lengths, shapes):
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


def _options(disadvantage: Disadvantage, recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes) -> _Options:
    """Yield the changes of one kind, the smallest first."""
    section, adapter = recipe.training, recipe.adapter
    match disadvantage:
        case "slower_steps" if section.grad_checkpoint is not True and shapes.can_checkpoint:
            yield {"training.grad_checkpoint": True}, 0
        case "more_passes":
            longest = min(recipe.data.max_tokens, max(row.full for row in lengths.train))
            for bound, accumulate in smaller_batches(section, longest):
                yield (
                    {
                        f"training.{'batch_size' if section.batch_size else 'batch_tokens'}": bound,
                        "training.accumulate": accumulate,
                    },
                    0,
                )
        case "truncated_rows":
            known = sorted(row.full for row in (*lengths.train, *lengths.valid))
            for window in (known[int(quantile * (len(known) - 1))] for quantile in _WINDOW_QUANTILES):
                if lengths.shortest_window <= window < min(recipe.data.max_tokens, known[-1]):
                    yield {"data.max_tokens": window}, lengths.count_truncated(window)
        case "fewer_layers":
            yield from (({"adapter.layers": one}, 0) for one in _halves(layer_count(adapter.layers, shapes.depth)))
        case "less_capacity":
            yield from (({"adapter.rank": one}, 0) for one in _halves(adapter.rank))
        case "rounded_weights" if not recipe.model.quantize and not any(weight.bits for weight in shapes.weights):
            yield {"model.quantize": 4}, 0


def _halves(number: int) -> Iterator[int]:
    while number > 4:
        number = max(4, number // 2)
        yield number
