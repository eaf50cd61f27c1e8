"""The objective of preference training: the losses of ``preference`` over pairs of answers to one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlxtune.data.batching import Arrange, group_pairs
from mlxtune.models.template import EncodedPair
from mlxtune.recipe import MethodSection, TrainingSection
from mlxtune.training import preference
from mlxtune.training.objective import Arrays, Counts
from mlxtune.training.pairs import PairBatch, collate, loss_sum, sides
from mlxtune.training.stack import Stack


@dataclass(frozen=True)
class Preferring:
    """The losses of ``by`` over pairs.

    ``shared``: the prompt of a pair is computed once for both of its answers, and the ``prefix`` of all prompts once per batch.
    """

    by: MethodSection
    shared: bool
    prefix: int = 0
    lanes: int = 1

    @property
    def sums(self) -> int:
        return len(preference.metrics(self.by))

    def means(self, sums: Sequence[float], weight: float) -> dict[str, float]:
        return {name: total / weight for name, total in zip(preference.metrics(self.by), sums, strict=True)}

    def arrange(self, rows: Sequence[EncodedPair], section: TrainingSection) -> Arrange:
        return partial(
            group_pairs, sides(rows, self.prefix), shared=self.shared, batch_tokens=section.batch_tokens,
            batch_size=section.batch_size, prefix=self.prefix,
        )  # fmt: skip

    def collate(self, rows: Sequence[EncodedPair], groups: Sequence[Sequence[int]], step: Sequence[int]) -> list[PairBatch]:
        return collate(rows, groups, shared=self.shared, prefix=self.prefix, lanes=self.lanes, step=step)

    def weight(self, counts: Counts) -> int:
        return len(counts)

    def __call__(self, stack: Stack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        return loss_sum(stack, arrays, self.by)
