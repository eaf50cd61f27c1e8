"""The objective of supervised fine-tuning: minus the log-probability of every trained token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlxtune.data import batching
from mlxtune.data.batching import Arrange
from mlxtune.models.template import Encoded
from mlxtune.recipe import TrainingSection
from mlxtune.training.batches import Batch, collate
from mlxtune.training.objective import Arrays, Counts
from mlxtune.training.stack import Stack


@dataclass(frozen=True)
class Supervised:
    """Cross-entropy over trained tokens. ``prefix`` is how many tokens all rows share and compute once per batch."""

    prefix: int = 0
    lanes: int = 1

    sums = 0

    def means(self, sums: Sequence[float], weight: float) -> dict[str, float]:
        return {}

    def arrange(self, rows: Sequence[Encoded], section: TrainingSection) -> Arrange:
        lengths = [len(row.tokens) - 1 - self.prefix for row in rows]
        return partial(
            batching.group, lengths, batch_tokens=section.batch_tokens, batch_size=section.batch_size, prefix=self.prefix
        )

    def collate(self, rows: Sequence[Encoded], groups: Sequence[Sequence[int]], step: Sequence[int]) -> list[Batch]:
        return [collate(rows, chosen, self.prefix, self.lanes) for chosen in groups]

    def weight(self, counts: Counts) -> int:
        return sum(trained for _, trained in counts.values())

    def __call__(self, stack: Stack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        return loss_sum(stack, arrays), mx.zeros((0,))


def loss_sum(stack: Stack, arrays: Arrays) -> mx.array:
    """Cross-entropy summed over the trained tokens of a batch: a scalar.

    ``arrays`` is ``Batch.arrays``: prefix (one or none), and for each part inputs, positions, targets, weights and what enters the
    first adapted layer (or none of it).
    """
    entering = list(arrays["entering"])
    recorded = None
    if arrays["prefix"]:
        recorded, _ = stack.record(arrays["prefix"][0], entering.pop(0) if entering else None)
    losses = []
    parts: Sequence[tuple[mx.array, ...]] = list(
        zip(arrays["inputs"], arrays["positions"], arrays["targets"], arrays["weights"], strict=True)
    )
    for lane, (inputs, positions, targets, weights) in enumerate(parts):
        with stack.lanes(lane):
            hidden = stack.hidden(inputs, recorded, entering[lane] if entering else None)
            hidden = hidden.reshape(-1, hidden.shape[-1])[positions]
            losses.append(-(stack.logp(hidden, targets) * weights).sum())
    return mx.stack(losses).sum()
