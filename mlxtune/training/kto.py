"""The objective of answers that are wanted or unwanted by themselves: KTO, on the machinery of pairs.

Each row is a pair of its own completion and another row's: the second is KTO's "mismatched" one, which estimates how far the policy
is from the reference altogether. So the prompt is computed once for both, and the reference of both is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlxtune.models.template import EncodedPair
from mlxtune.training.dpo import Preferring
from mlxtune.training.objective import Arrays
from mlxtune.training.pairs import PairBatch, collate, logps
from mlxtune.training.preference import kto, kto_point
from mlxtune.training.stack import Stack

METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl")


@dataclass(frozen=True)
class LabelledBatch(PairBatch):
    """A batch with float32 ``(rows,)`` for each lane: 1 where the completion is wanted."""

    labels: tuple[mx.array, ...] = ()

    @property
    def arrays(self) -> Arrays:
        return super().arrays | {"labels": list(self.labels)}


@dataclass(frozen=True)
class Labelled(Preferring):
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306). The reference point is estimated over a batch, as in TRL."""

    @property
    def sums(self) -> int:
        return len(METRICS) + 1

    def collate(self, rows: Sequence[EncodedPair], groups: Sequence[Sequence[int]], step: Sequence[int]) -> list[PairBatch]:
        made: list[PairBatch] = []
        for batch in collate(rows, groups, shared=self.shared, prefix=self.prefix, lanes=self.lanes, step=step):
            labels = tuple(mx.array([float(bool(rows[at].label)) for at in part.rows]) for part in batch.parts)
            made.append(LabelledBatch(batch.prefix, batch.parts, batch.counts, batch.mean_length, labels))
        return made

    def means(self, sums: Sequence[float], weight: float) -> dict[str, float]:
        """Each over the rows of its label, nothing where there are none; ``kl`` over all."""
        wanted, unwanted, *found, kl = sums
        counts = (wanted, unwanted)
        means = [total / count if count else math.nan for total, count in zip(found, counts * 2, strict=True)]
        return dict(zip(METRICS, [*means[:2], means[0] - means[1], *means[2:], kl / weight], strict=True))

    def __call__(self, stack: Stack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        own, other = [], []
        for lane, found in enumerate(logps(stack, arrays)):
            with stack.lanes(lane):
                said, mismatched = mx.split(found, 2)
                own.append(said)
                other.append(mx.stop_gradient(mismatched))
        known = [mx.split(reference, 2) for reference in arrays["reference"]]
        said, labels = mx.concatenate(own), mx.concatenate(arrays["labels"])
        reference = mx.concatenate([first for first, _ in known])
        kl = kto_point(mx.concatenate(other), mx.concatenate([second for _, second in known]))
        by = self.by
        losses = kto(said, reference, labels > 0, kl, beta=by.beta, good=by.desirable, bad=by.undesirable)
        rewards = mx.stop_gradient(by.beta * (said - reference))
        said = mx.stop_gradient(said)
        sides = (labels, 1 - labels)
        sums = [*(side.sum() for side in sides), *((value * side).sum() for value in (rewards, said) for side in sides)]
        return losses.sum(), mx.stack([*sums, kl * labels.size])
