"""Supervised fine-tuning: batches of rows, and the cross-entropy loss over their trained tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.data import batching
from mlxtune.data.batching import BatchRows, PaddedShapes, Shape, padded_length
from mlxtune.models.encoded import Encoded, common_prefix
from mlxtune.recipe import TrainingSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import Arrays, Counts, TrainingBatch

MIN_PREFIX = 16  # tokens; a separate pass is not worth it for a shorter shared prefix


@dataclass(frozen=True)
class SFTPart:
    rows: tuple[int, ...]
    inputs: mx.array  # int32 (rows, tokens), padded on the right, and below if the batch is padded to a shape
    positions: mx.array  # int32 (targets,): indices in the flattened inputs of the tokens that predict the targets
    targets: mx.array  # int32 (targets,)
    weights: mx.array  # float32 (targets,): 1 for a target, 0 for padding


@dataclass(frozen=True)
class SFTObjective:
    """Cross-entropy over trained tokens. The first ``prefix`` tokens of all rows but unprefixed ones are identical and computed once per batch.

    Called with a batch's arrays, an objective returns the scalar loss and its metrics, summed over the batch, lazy and differentiable.
    They are sums, not means: the caller divides by the weight of the whole optimizer step, so that neither the batch shape nor
    accumulation changes the objective.
    """

    prefix: int = 0
    streams: int = 1

    metric_count = 0  # computed in addition to the loss
    widths = 1  # in which a batch is padded
    batch_cost = staticmethod(batching.row_batch_cost)

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        """Return the metrics by name, given their ``sums``; ``at_start``, without those that would only measure rounding."""
        return {}

    def arrange(self, rows: Sequence[Any], section: TrainingSection) -> BatchRows:
        """Return a function that groups ``rows`` into batches within the recipe's limits."""
        replay = frozenset(index for index, row in enumerate(rows) if row.replay)
        return partial(
            batching.group_by_length, input_lengths(rows, self.prefix), prefix=self.prefix, spread=replay,
            batch_tokens=section.batch_tokens, batch_size=section.batch_size,
        )  # fmt: skip

    def separate(self, rows: Sequence[Any], indices: Sequence[int]) -> list[Sequence[int]]:
        """Return the rows at ``indices`` in groups that can be computed in one forward pass: with the shared prefix, and without it."""
        return list(batching.separate(indices, [rows[index].unprefixed for index in indices])) if self.prefix else [indices]

    def batch_shape(self, rows: Sequence[Any], indices: Sequence[int]) -> Shape:
        """Return the sizes of the arrays of the batch of the rows at ``indices``."""
        lengths = input_lengths([rows[index] for index in indices], self.prefix)
        return batching.row_batch_shape(lengths, [_count_trained(rows[index]) for index in indices], self.streams)

    def collate(
        self, rows: Sequence[Any], groups: Sequence[Sequence[int]], step: Sequence[int], shapes: PaddedShapes | None = None
    ) -> list[TrainingBatch]:
        """Return one batch per group, padded to its shape in ``shapes``. ``groups`` may be one host's shard of the ``step``'s rows."""
        padded = [shapes[self.batch_shape(rows, indices)] if shapes else None for indices in groups]
        return [collate(rows, indices, self.prefix, self.streams, shape) for indices, shape in zip(groups, padded, strict=True)]

    def weight(self, counts: Counts) -> int:
        """Return the number by which sums over these rows are divided: trained tokens or, for preferences, pairs."""
        return sum(trained for _, trained in counts.values())

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        return loss_sum(stack, arrays), mx.zeros((0,))


def input_lengths(rows: Sequence[Encoded], prefix: int) -> list[int]:
    """Return the number of tokens of each row that are computed after the shared ``prefix``, which unprefixed rows do not have."""
    return [len(row.tokens) - 1 - (0 if row.unprefixed else prefix) for row in rows]


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """Return the number of untrained tokens that all rows but unprefixed ones begin with; 0 if it is less than ``MIN_PREFIX``."""
    rows = [row for row in rows if not row.unprefixed]
    first_target = min(int(np.argmax(row.trained)) for row in rows)
    shared = min(common_prefix([row.tokens.tolist() for row in rows]), first_target - 1)
    return shared if shared >= MIN_PREFIX and len(rows) > 1 else 0


def collate(
    rows: Sequence[Encoded], indices: Sequence[int], prefix: int, streams: int = 1, shape: Shape | None = None
) -> TrainingBatch:
    """Return a batch of the rows at ``indices``, which share their first ``prefix`` tokens unless they are unprefixed, split over ``streams``.

    It is padded to ``shape``, which has at least the sizes of ``batching.row_batch_shape``.
    """
    prefix = 0 if rows[indices[0]].unprefixed else prefix
    padded_rows, width, targets = shape or (len(indices), 0, 0)
    parts = [
        _part(rows, indices[stream::streams], prefix, (len(range(stream, padded_rows, streams)), width, targets))
        for stream in range(min(streams, padded_rows))
    ]
    counts = {index: (len(rows[index].tokens), _count_trained(rows[index])) for index in indices}
    shared = mx.array(rows[indices[0]].tokens[:prefix]) if prefix else None
    return TrainingBatch(shared, tuple(parts), counts)


def _count_trained(row: Encoded) -> int:
    return int(row.trained[1:].sum())


def loss_sum(stack: LayerStack, arrays: Arrays) -> mx.array:
    """Return the cross-entropy summed over the trained tokens of a batch, as a scalar."""
    frozen = list(arrays["frozen_outputs"])
    prefix_caches = None
    if arrays["prefix"]:
        prefix_caches, _ = stack.run_prefix(arrays["prefix"][0], frozen.pop(0) if frozen else None)
    losses = []
    parts = zip(arrays["inputs"], arrays["positions"], arrays["targets"], arrays["weights"], strict=True)
    for stream, (inputs, positions, targets, weights) in enumerate(parts):
        with stack.streams(stream):
            hidden = stack.hidden_states(inputs, prefix_caches, frozen[stream] if frozen else None)
            hidden = hidden.reshape(-1, hidden.shape[-1])[positions]
            losses.append(-(stack.log_probs(hidden, targets) * weights).sum())
    return mx.stack(losses).sum()


def _part(rows: Sequence[Encoded], indices: Sequence[int], prefix: int, shape: Shape) -> SFTPart:
    """Return one stream's part of a batch: the rows at ``indices``. ``shape`` has its number of rows, and its smallest width and number of targets."""
    padded_rows, width, size = shape
    width = width or padded_length(max(len(rows[index].tokens) for index in indices) - 1 - prefix)
    tokens = np.zeros((padded_rows, width + 1), np.int32)
    trained = np.zeros((padded_rows, width + 1), bool)
    for line, index in enumerate(indices):
        row = rows[index]
        tokens[line, : len(row.tokens) - prefix] = row.tokens[prefix:]
        trained[line, : len(row.tokens) - prefix] = row.trained[prefix:]
    is_target = trained[:, 1:]
    count = int(is_target.sum())
    size = size or padded_length(count)
    positions, targets, weights = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32)
    positions[:count], targets[:count], weights[:count] = np.flatnonzero(is_target), tokens[:, 1:][is_target], 1
    return SFTPart(tuple(indices), mx.array(tokens[:, :-1]), mx.array(positions), mx.array(targets), mx.array(weights))
