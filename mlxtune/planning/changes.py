"""What to change in a recipe that does not fit, the least harmful first, each with the peak after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlxtune.core.text import plural, size
from mlxtune.planning.memory import Estimate
from mlxtune.planning.shapes import Shapes
from mlxtune.planning.workload import Lengths, smaller
from mlxtune.recipe import Recipe

_SHARES = (0.95, 0.9, 0.75, 0.5)  # of the rows that stay whole when the window shrinks


@dataclass(frozen=True)
class Change:
    """``settings`` as ``--set`` takes them, on top of the changes before; ``cost`` says what is lost; ``peak`` in bytes after it."""

    settings: tuple[str, ...]
    cost: str
    peak: int
    fits: bool


Costs = Callable[[Recipe], Estimate]


def changes(recipe: Recipe, lengths: Lengths, shapes: Shapes, costs: Costs, limit: int) -> list[Change]:
    """Changes, each on top of the ones before, until the recipe fits in ``limit`` bytes or nothing is left but a smaller model.

    ``costs`` estimates a recipe.
    """
    made: list[Change] = []
    now = costs(recipe)
    for options in (_checkpoint, _batch, _window, _layers, _rank, _quantize):
        best: tuple[Recipe, Change] | None = None
        for changed, settings, cost in options(recipe, lengths, shapes):
            then = costs(changed)
            if then.total >= now.total:
                continue
            best = changed, Change(settings, cost, then.total, then.total <= limit)
            if best[1].fits:
                break
        if best:
            recipe, change = best
            now = costs(recipe)
            made.append(change)
            if change.fits:
                return made
    rest = size(max(0, limit - (now.total - now.weights)))
    return [*made, Change((), f"a smaller base: its weights may take {rest}, those of this one take {size(now.weights)}", 0, True)]


_Options = Iterator[tuple[Recipe, tuple[str, ...], str]]


def _checkpoint(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    if recipe.training.grad_checkpoint is not True:
        yield _with(recipe, "training", grad_checkpoint=True), ("training.grad_checkpoint=true",), "a third more time a step"


def _batch(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    name = "batch_size" if recipe.training.batch_size else "batch_tokens"
    longest = min(recipe.data.max_tokens, max(row.full for row in lengths.train))
    for bound, accumulate in smaller(recipe.training, longest):
        settings = (f"training.{name}={bound}", f"training.accumulate={accumulate}")
        yield _with(recipe, "training", **{name: bound, "accumulate": accumulate}), settings, "the same step in more passes"


def _window(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    known = sorted(row.full for row in (*lengths.train, *lengths.valid))
    for share in _SHARES:
        window = known[int(share * (len(known) - 1))]
        if lengths.shortest_window <= window < min(recipe.data.max_tokens, known[-1]):
            cost = f"{plural(lengths.cut(window), 'row')} of {len(known):,} cut at their end"
            yield _with(recipe, "data", max_tokens=window), (f"data.max_tokens={window}",), cost


def _layers(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    count = shapes.depth if recipe.adapter.layers == "all" else min(recipe.adapter.layers, shapes.depth)
    while count > 4:
        count = max(4, count // 2)
        yield _with(recipe, "adapter", layers=count), (f"adapter.layers={count}",), "fewer layers learn"


def _rank(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    rank = recipe.adapter.rank
    while rank > 4:
        rank = max(4, rank // 2)
        yield _with(recipe, "adapter", rank=rank), (f"adapter.rank={rank}",), "the adapter can learn less"


def _quantize(recipe: Recipe, lengths: Lengths, shapes: Shapes) -> _Options:
    if not recipe.model.quantize and not any(weight.bits for weight in shapes.weights):
        yield _with(recipe, "model", quantize=4), ("model.quantize=4",), "the base computes on rounded weights"


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    return replace(recipe, **{section: replace(getattr(recipe, section), **values)})
