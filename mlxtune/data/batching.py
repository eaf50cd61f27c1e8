"""Group rows into batches with little padding. The seed determines the order, and every row occurs once per epoch.

Rows of similar length are grouped within shuffled windows, and the batches are shuffled again, so the order stays random.
A compiled training step is traced again for every new combination of array shapes, and MLX never frees a trace. Most combinations
differ by little, so a few dozen padded shapes cover a whole run with little additional padding.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

WINDOW = 256  # number of rows that are sorted together; four times as many if they are padded in two widths
KL_PAIRS = 16  # validation pairs on which preference training measures its distance from the reference
STRIDE = 64  # tokens; pairs whose longer sequences differ by less than this are sorted by their shorter ones

BatchRows = Callable[[Sequence[int]], list[list[int]]]  # groups the row indices of a window into batches
PairLengths = tuple[int, int, int]  # tokens in the prompt with any shared start of both completions, and in the rest of each


def padded_length(length: int) -> int:
    """Round ``length`` up to one of a small set of values: multiples of 8 up to 256, of 16 up to 512, of 32 up to 1,024, and so on."""
    step = 8
    while length > 32 * step:
        step *= 2
    return -(-max(length, 1) // step) * step


def passes(epoch: int, steps: int, whole: int) -> float:
    """Return the number of epochs up to and including ``steps`` of the ``whole`` steps of ``epoch`` (from 0), to one decimal.

    A number below 0.05 is rounded to one significant digit.
    """
    exact = epoch + steps / whole
    count = round(exact, 1) or float(f"{exact:.1g}")
    return int(count) if count.is_integer() else count


def epoch_batches(count: int, batch_rows: BatchRows, *, seed: int, number: int, widths: int = 1) -> list[list[int]]:
    """Return the batches of epoch ``number`` over ``count`` rows, padded in ``widths``. ``batch_rows`` groups the rows of one window."""
    order = list(range(count))
    rng = random.Random(f"{seed}/{number}")
    rng.shuffle(order)
    batches: list[list[int]] = []
    window = WINDOW * widths**2
    for start in range(0, len(order), window):
        batches += batch_rows(order[start : start + window])
    rng.shuffle(batches)
    return batches


def _cut(order: Iterable[int], batch_tokens: int, batch_size: int, tokens: Callable[[list[int]], int]) -> list[list[int]]:
    """Cut ``order`` into batches of at most ``batch_size`` rows or, if that is 0, ``batch_tokens`` tokens."""
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) < batch_size if batch_size else tokens([*batches[-1], index]) <= batch_tokens):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def group_by_length(
    lengths: Sequence[int],
    order: Sequence[int],
    *,
    batch_tokens: int,
    batch_size: int,
    prefix: int = 0,
    spread: Collection[int] = (),
) -> list[list[int]]:
    """Sort ``order`` by padded length and cut it into batches.

    ``lengths`` counts the tokens in each row after a shared ``prefix``. A batch has at most ``batch_size`` rows or, if that is 0, at
    most ``batch_tokens`` tokens including padding and prefix, except for a single longer row. The rows in ``spread`` are
    distributed evenly over the batches, whatever their lengths.
    """

    def tokens(batch: list[int]) -> int:
        return len(batch) * padded_length(max(lengths[index] for index in batch)) + prefix

    by_length = sorted(order, key=lambda index: padded_length(lengths[index]))
    if spread:  # merge its rows with the others so that every part of the result has about the same fraction of both
        kinds = [index for index in by_length if index not in spread], [index for index in by_length if index in spread]
        rank = {index: (number + 0.5) / len(kind) for kind in kinds for number, index in enumerate(kind)}
        by_length.sort(key=lambda index: rank[index])
    return _cut(by_length, batch_tokens, batch_size, tokens)


def separate(indices: Sequence[int], marked: Sequence[bool]) -> list[list[int]]:
    """Return the ``indices`` that are not ``marked`` and those that are, without empty lists."""
    kinds = ([index for index, is_marked in zip(indices, marked, strict=True) if is_marked is kind] for kind in (False, True))
    return [kind for kind in kinds if kind]


def pair_widths(pair: PairLengths, *, shared: bool) -> tuple[int, ...]:
    """Return the number of inputs of ``pair``: in one row for the prompt and both sides if ``shared``; else of the longer and the shorter sequence.

    A side's last token is a target only, never an input.
    """
    prompt, *sides = pair
    return (prompt + sum(sides) - 2,) if shared else (prompt + max(sides) - 1, prompt + min(sides) - 1)


def pair_batch_widths(pairs: Iterable[PairLengths], *, shared: bool) -> tuple[int, ...]:
    """Return the padded widths of a batch of ``pairs``; see :func:`pair_widths`."""
    blocks = zip(*(pair_widths(pair, shared=shared) for pair in pairs), strict=True)
    return tuple(padded_length(max(block)) for block in blocks)


def group_pairs(
    pairs: Sequence[PairLengths], order: Sequence[int], *, shared: bool, batch_tokens: int, batch_size: int, prefix: int = 0
) -> list[list[int]]:
    """Group pairs like :func:`group_by_length`. If two sequences are padded separately, pairs are sorted by both lengths."""

    def tokens(batch: list[int]) -> int:
        return len(batch) * sum(pair_batch_widths((pairs[index] for index in batch), shared=shared)) + prefix

    def key(index: int) -> tuple[int, ...]:
        *first, last = pair_widths(pairs[index], shared=shared)
        return (*(width // STRIDE for width in first), last)

    return _cut(sorted(order, key=key), batch_tokens, batch_size, tokens)


# Padded shapes

MAX_SHAPES = 32  # for each width
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
    """Return the shape of a batch of pairs: ``(rows, widths…, targets, completion)``.

    ``widths`` are those of :func:`pair_batch_widths`. ``common`` counts the answer tokens in each pair's shared start.
    """
    copies = 1 if shared else 2  # of the shared start, whose tokens are predicted once or twice
    counts = [chosen + rejected + copies * start for (_, chosen, rejected), start in zip(pairs, common, strict=True)]
    targets = max(sum(counts[part::streams]) for part in range(streams))
    completion = max(max(sides) + start for (_, *sides), start in zip(pairs, common, strict=True))
    return len(pairs), *pair_batch_widths(pairs, shared=shared), padded_length(targets), padded_length(completion)


def pair_batch_cost(shape: Shape) -> float:
    """Return the cost of a batch of pairs, in computed positions."""
    rows, *widths, targets, _ = shape
    return rows * sum(widths) + HEAD_COST * targets


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
