"""Suggest recipe changes for a run that does not fit, least harmful first, each with the resulting peak memory."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, smaller_batches
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import toml_literal
from mlxtune.recipe.schema import layer_count

_WINDOW_QUANTILES = (0.95, 0.9, 0.75, 0.5)  # fraction of rows that are not truncated if no window is short enough


Disadvantage = Literal[
    "slower_steps", "more_passes", "truncated_rows", "fewer_layers", "less_capacity", "rounded_weights", "shorter_rows", "smaller_base"
]  # fmt: skip  # the least harmful first


@dataclass(frozen=True)
class MemoryChange:
    """A change that lowers the peak memory, on top of earlier changes."""

    settings: tuple[str, ...]  # for --set; empty if only shorter rows or a smaller base would help
    disadvantage: Disadvantage
    peak: int  # the resulting peak memory in bytes
    fits: bool
    truncated: int = 0  # rows that are longer than a shorter window
    longest_row: int = 0  # tokens that would fit, for a window that would leave rows without a trained token
    largest_weights: int = 0  # bytes of weights that would fit, for a smaller base; 0 if none would


Estimator = Callable[[Recipe], MemoryEstimate]
Changes = list[MemoryChange]
_Options = Iterator[tuple[dict[str, Any], int]]  # new values by key, and the rows that they truncate


def suggest_changes(recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes, estimator: Estimator, limit: int) -> Changes:
    """Return changes, each on top of the previous ones, until the recipe fits in ``limit`` bytes or needs a smaller base."""
    changes: Changes = []
    current = estimator(recipe)
    lossless, unharmed, window = recipe, 0, 0
    for disadvantage in get_args(Disadvantage):
        best: tuple[Recipe, MemoryChange] | None = None
        if disadvantage == "truncated_rows":
            lossless, unharmed, window = recipe, len(changes), _longest_window(recipe, estimator, limit)
        for values, truncated in _options(disadvantage, recipe, lengths, shapes, window):
            candidate = _changed(recipe, values)
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
    if window:
        leaves_rows = all(min(row.prompt for row in rows) < window for rows in (lengths.train, lengths.valid) if rows)
        settings = (f"data.max_tokens={window}", 'data.too_long="skip"') if leaves_rows else ()
        peak, truncated = estimator(_changed(lossless, {"data.max_tokens": window})).total, lengths.count_truncated(window)
        changes[unharmed:] = [MemoryChange(settings, "shorter_rows", peak, True, truncated, window)]
        current = estimator(lossless)
    room = max(0, limit - (current.total - current.weights))
    return [*changes, MemoryChange((), "smaller_base", 0, True, largest_weights=room)]


def _longest_window(recipe: Recipe, estimator: Estimator, limit: int) -> int:
    """Return the largest ``data.max_tokens`` with which ``recipe``, which does not fit in ``limit`` bytes, would; 0 if none does."""
    windows = range(1, recipe.data.max_tokens)
    return bisect_left(windows, True, key=lambda window: estimator(_changed(recipe, {"data.max_tokens": window})).total > limit)


def _changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    for key, value in values.items():
        section, _, name = key.partition(".")
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{name: value})})
    return recipe


def _options(disadvantage: Disadvantage, recipe: Recipe, lengths: DatasetLengths, shapes: ModelShapes, longest: int) -> _Options:
    """Yield the changes of one kind, the smallest first."""
    section, adapter = recipe.training, recipe.adapter
    match disadvantage:
        case "slower_steps" if section.grad_checkpoint is not True and shapes.can_checkpoint:
            yield {"training.grad_checkpoint": True}, 0
        case "more_passes":
            widest = min(recipe.data.max_tokens, max(row.full for row in lengths.train))
            size = "batch_size" if section.batch_size else "batch_tokens"
            for bound, accumulate in smaller_batches(section, widest):
                yield {f"training.{size}": bound, "training.accumulate": accumulate}, 0
        case "truncated_rows":
            known = sorted(row.full for row in (*lengths.train, *lengths.valid))
            for window in (longest, *(known[int(quantile * (len(known) - 1))] for quantile in _WINDOW_QUANTILES)):
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
