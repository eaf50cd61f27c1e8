"""The preference-training objectives: the losses in ``losses``, over pairs of completions, and KTO, implemented with pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlxtune.data import batching
from mlxtune.data.batching import BatchRows, PaddedShapes, Shape, group_pairs
from mlxtune.models.encoded import EncodedPair
from mlxtune.recipe import MethodSection, TrainingSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import Arrays, Counts
from mlxtune.training.preference import losses
from mlxtune.training.preference.batches import PairBatch, batch_shape, collate, sides
from mlxtune.training.preference.forward import logps

KTO_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl")


@dataclass(frozen=True)
class PreferenceObjective:
    """The losses configured in ``method``, over pairs.

    With ``share_prompts``, a pair's prompt is computed once for both completions, and the prompts' common ``prefix`` once per
    batch.
    """

    method: MethodSection
    share_prompts: bool
    prefix: int = 0
    streams: int = 1

    @property
    def metric_count(self) -> int:
        return len(losses.metric_names(self.method))

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        names = losses.metric_names(self.method)
        is_reference = at_start and not self.method.reference_free and self.method.reference == "start"  # so all rewards are 0
        omitted = {losses.ACCURACY} if is_reference else set()
        return {name: total / weight for name, total in zip(names, sums, strict=True) if name not in omitted}

    def arrange(self, rows: Sequence[EncodedPair], section: TrainingSection) -> BatchRows:
        return partial(
            group_pairs, sides(rows, self.prefix), shared=self.share_prompts, batch_tokens=section.batch_tokens,
            batch_size=section.batch_size, prefix=self.prefix,
        )  # fmt: skip

    def separate(self, rows: Sequence[EncodedPair], indices: Sequence[int]) -> list[Sequence[int]]:
        return [indices]

    def batch_shape(self, rows: Sequence[EncodedPair], indices: Sequence[int]) -> Shape:
        return batch_shape(rows, indices, self.share_prompts, self.prefix, self.streams)

    def batch_cost(self, shape: Shape) -> float:
        return batching.pair_batch_cost(shape)

    def collate(
        self, rows: Sequence[EncodedPair], groups: Sequence[Sequence[int]], step: Sequence[int], shapes: PaddedShapes | None = None
    ) -> list[PairBatch]:
        return collate(
            rows, groups, share_prompts=self.share_prompts, prefix=self.prefix, streams=self.streams, step=step, shapes=shapes
        )

    def weight(self, counts: Counts) -> int:
        return len(counts)

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        return loss_sum(stack, arrays, self.method)


def loss_sum(stack: LayerStack, arrays: Arrays, method: MethodSection) -> tuple[mx.array, mx.array]:
    """Return the loss, a scalar, and the metrics ``(metrics,)`` for ``method``, summed over the pairs of a batch."""
    totals, metrics = [], []
    for stream, part_logps in enumerate(logps(stack, arrays)):
        with stack.streams(stream):
            chosen, rejected = mx.split(part_logps, 2)
            ref_chosen, ref_rejected = mx.split(arrays["reference"][stream], 2)
            lengths = mx.split(mx.maximum(arrays["mask"][stream].sum(axis=1), 1), 2)
            weights = arrays["weights"][stream]
            scores = losses.PairScores(chosen, rejected, ref_chosen, ref_rejected, lengths[0], lengths[1], arrays["mean_length"])
            totals.append((losses.loss(scores, method) * weights).sum())
            metrics.append(losses.metric_sums(scores, method, weights))
    return mx.stack(totals).sum(), mx.stack(metrics).sum(axis=0)


@dataclass(frozen=True)
class KTOObjective(PreferenceObjective):
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306): completions that are individually labeled desirable or undesirable.

    Each row is paired with another row's completion (the "mismatched" completion in KTO), which is used to estimate the policy's
    distance from the reference. The prompt is computed once for both. The reference point is estimated per batch, as in TRL.
    """

    @property
    def metric_count(self) -> int:
        return len(KTO_METRICS) + 1

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        """Return the means over the rows of each label, NaN if it has no rows; ``kl`` is the mean over all rows."""
        desirable, undesirable, *totals, kl = sums
        counts = (desirable, undesirable)
        means = [total / count if count else math.nan for total, count in zip(totals, counts * 2, strict=True)]
        return dict(zip(KTO_METRICS, [*means[:2], means[0] - means[1], *means[2:], kl / weight], strict=True))

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        own, mismatched = [], []
        for stream, part_logps in enumerate(logps(stack, arrays)):
            with stack.streams(stream):
                first, second = mx.split(part_logps, 2)
                own.append(first)
                mismatched.append(mx.stop_gradient(second))
        references = [mx.split(reference, 2) for reference in arrays["reference"]]
        policy, labels = mx.concatenate(own), mx.concatenate(arrays["labels"])
        reference = mx.concatenate([first for first, _ in references])
        weights = mx.concatenate(arrays["weights"])
        kl = losses.kto_reference_point(mx.concatenate(mismatched), mx.concatenate([second for _, second in references]), weights)
        method = self.method
        row_losses = losses.kto(policy, reference, labels > 0, kl, method)
        rewards = mx.stop_gradient(method.beta * (policy - reference))
        policy = mx.stop_gradient(policy)
        sides = (labels, weights - labels)
        sums = [*(side.sum() for side in sides), *((value * side).sum() for value in (rewards, policy) for side in sides)]
        return (row_losses * weights).sum(), mx.stack([*sums, kl * weights.sum()])
