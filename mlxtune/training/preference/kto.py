"""KTO: training on completions that are individually labeled desirable or undesirable, implemented with pairs.

Each row is paired with another row's completion (the "mismatched" completion in KTO), which is used to estimate the policy's
distance from the reference. The prompt is computed once for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import Arrays
from mlxtune.training.preference.dpo import PreferenceObjective
from mlxtune.training.preference.forward import logps
from mlxtune.training.preference.losses import kto, kto_reference_point

METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl")


@dataclass(frozen=True)
class KTOObjective(PreferenceObjective):
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306). The reference point is estimated per batch, as in TRL."""

    @property
    def metric_count(self) -> int:
        return len(METRICS) + 1

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        """Return the means over the rows of each label, NaN if it has no rows; ``kl`` is the mean over all rows."""
        desirable, undesirable, *totals, kl = sums
        counts = (desirable, undesirable)
        means = [total / count if count else math.nan for total, count in zip(totals, counts * 2, strict=True)]
        return dict(zip(METRICS, [*means[:2], means[0] - means[1], *means[2:], kl / weight], strict=True))

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
        kl = kto_reference_point(mx.concatenate(mismatched), mx.concatenate([second for _, second in references]), weights)
        method = self.method
        losses = kto(
            policy, reference, labels > 0, kl,
            beta=method.beta, desirable_weight=method.desirable, undesirable_weight=method.undesirable,
        )  # fmt: skip
        rewards = mx.stop_gradient(method.beta * (policy - reference))
        policy = mx.stop_gradient(policy)
        sides = (labels, weights - labels)
        sums = [*(side.sum() for side in sides), *((value * side).sum() for value in (rewards, policy) for side in sides)]
        return (losses * weights).sum(), mx.stack([*sums, kl * weights.sum()])
