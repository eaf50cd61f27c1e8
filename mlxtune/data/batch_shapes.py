"""Choose a few array shapes that a run's batches are padded to.

A compiled training step is traced again for every new combination of array shapes, and MLX never frees a trace. Most combinations
differ by little, so a few dozen padded shapes cover a whole run with little additional padding.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from mlxtune.data.batching import PairLengths, padded_length, pair_batch_widths

MAX_SHAPES = 32
ENOUGH = 1.01  # padded cost relative to the cost without padding to shapes: no more shapes are added below this
HEAD_COST = 0.3  # cost of predicting a token, relative to computing a position in the layers

Shape = tuple[int, ...]  # rows first; the sizes of one part of a batch that is split over streams
PaddedShapes = Mapping[Shape, Shape]  # each shape and the shape that it is padded to


def row_batch_shape(lengths: Sequence[int], trained: Sequence[int], streams: int) -> Shape:
    """Return ``(rows, width, targets)`` of a batch of rows with these input ``lengths`` and numbers of ``trained`` tokens."""
    targets = max(sum(trained[part::streams]) for part in range(streams))
    return len(lengths), padded_length(max(lengths)), padded_length(targets)


def row_batch_cost(shape: Shape) -> float:
    """Return the cost of a batch of rows, in computed positions."""
    rows, width, targets = shape
    return rows * width + HEAD_COST * targets


def pair_batch_shape(pairs: Sequence[PairLengths], common: Sequence[int], streams: int, *, shared: bool) -> Shape:
    """Return the shape of a batch of pairs: ``(rows, widths…, stem targets, side targets, completion)``.

    ``widths`` are those of ``batching.pair_batch_widths``. ``common`` counts the answer tokens in each pair's shared start.
    """
    sides = [(chosen, rejected) for _, chosen, rejected in pairs]
    if not shared:
        sides = [(chosen + start, rejected + start) for (chosen, rejected), start in zip(sides, common, strict=True)]
    in_stem = max(sum(common[part::streams]) for part in range(streams)) if shared else 0
    in_sides = max(sum(map(sum, sides[part::streams])) for part in range(streams))
    completion = max(max(side) + (start if shared else 0) for side, start in zip(sides, common, strict=True))
    widths = pair_batch_widths(pairs, shared=shared)
    return len(pairs), *widths, padded_length(in_stem) if in_stem else 0, padded_length(in_sides), padded_length(completion)


def pair_batch_cost(shape: Shape) -> float:
    """Return the cost of a batch of pairs, in computed positions."""
    rows, *widths, in_stem, in_sides, _ = shape
    return rows * sum(widths) + HEAD_COST * (in_stem + in_sides)


def choose_shapes(batches: Mapping[Shape, int], cost: Callable[[Shape], float], limit: int = MAX_SHAPES) -> dict[Shape, Shape]:
    """Map each shape in ``batches``, which has the number of batches by shape, to one of at most ``limit`` padded shapes.

    Starting with all shapes in one group, groups are split in one dimension, each time where this saves the most, until the padding
    costs less than :data:`ENOUGH` or the limit is reached.
    """
    exact = sum(count * cost(shape) for shape, count in batches.items())
    total = _cost(batches, batches, cost)
    groups = {0: list(batches)}
    numbers = itertools.count(1)
    splits = [(*_best_split(groups[0], batches, cost), 0)]
    while splits and len(groups) < limit and total > ENOUGH * exact:
        saved, dimension, bound, number = heapq.heappop(splits)
        if saved >= 0:  # savings are negated, because a heap pops its smallest item
            break
        shapes = groups.pop(number)
        total += saved
        for part in (
            [shape for shape in shapes if shape[dimension] <= bound],
            [shape for shape in shapes if shape[dimension] > bound],
        ):
            groups[new := next(numbers)] = part
            heapq.heappush(splits, (*_best_split(part, batches, cost), new))
    return {shape: padded for shapes in groups.values() for padded in [_largest(shapes)] for shape in shapes}


def _best_split(shapes: Sequence[Shape], batches: Mapping[Shape, int], cost: Callable[[Shape], float]) -> tuple[float, int, int]:
    """Return the change in cost of the best split of ``shapes``, its dimension, and the largest size on its lower side."""
    before = _cost(shapes, batches, cost)
    best = (0.0, 0, 0)
    for dimension in range(len(shapes[0])):
        ordered = sorted(shapes, key=lambda shape: shape[dimension])
        below, above = _running_costs(ordered, batches, cost), _running_costs(ordered[::-1], batches, cost)[::-1]
        for index in range(1, len(ordered)):
            if ordered[index - 1][dimension] < ordered[index][dimension]:
                best = min(best, (below[index - 1] + above[index] - before, dimension, ordered[index - 1][dimension]))
    return best


def _running_costs(shapes: Iterable[Shape], batches: Mapping[Shape, int], cost: Callable[[Shape], float]) -> list[float]:
    """Return the cost of the first shape, of the first two, and so on, each group padded to its largest sizes."""
    costs, count, largest = [], 0, None
    for shape in shapes:
        count += batches[shape]
        largest = shape if largest is None else _largest((largest, shape))
        costs.append(count * cost(largest))
    return costs


def _cost(shapes: Iterable[Shape], batches: Mapping[Shape, int], cost: Callable[[Shape], float]) -> float:
    return _running_costs(shapes, batches, cost)[-1]


def _largest(shapes: Iterable[Shape]) -> Shape:
    return tuple(map(max, zip(*shapes, strict=True)))
