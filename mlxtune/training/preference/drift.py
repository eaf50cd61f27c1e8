"""Measure how far the policy has drifted from its reference (KL), and warn about likelihood displacement."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlxtune.data.batching import KL_PAIRS
from mlxtune.models.cpu.streams import parallel_map
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import CHUNK
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.preference.batches import collate, inference_groups
from mlxtune.training.preference.forward import PairCache, target_states
from mlxtune.training.preference.reference import adapter_hash, without_gradients

DISPLACED = 0.05  # nats per token that chosen completions may lose before the run warns


class ReferenceKL:
    """Next-token KL(policy ‖ reference) in nats over the chosen completions of validation pairs, computed exactly, not sampled.

    Create it while the model is still the reference. It stores the reference's hidden states rather than its logits, which the head
    computes in chunks. If the head is trained too, there is no result, because the head would be compared with itself.
    """

    def __init__(
        self,
        stack: LayerStack,
        pairs: Sequence[EncodedPair],
        *,
        share_prompts: bool,
        prefix: int = 0,
        cache: PairCache | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """``share_prompts`` and ``prefix`` are as in ``batches.collate``; ``cache`` is a cache for these pairs.

        ``progress`` is called before the first batch and after each one with the number of pairs read and the total. It may raise an
        exception to stop.
        """
        pairs = pairs[:KL_PAIRS]
        self.stack, self.cache = stack, cache
        groups = inference_groups(pairs, prefix, share_prompts=share_prompts)
        self.batches = collate(pairs, groups, share_prompts=share_prompts, prefix=prefix, streams=stack.streams.size)
        self.adapter_hash = adapter_hash(stack.model)
        trainable = tree_flatten(stack.model.trainable_parameters())
        self.reference = self._hidden_states(progress) if all("layers." in name for name, _ in trainable) else []

    def __call__(self) -> float | None:
        """Return the mean over all tokens, or 0 without computing it if the adapter has not changed."""
        if not self.reference:
            return None
        if adapter_hash(self.stack.model) == self.adapter_hash:
            return 0.0
        chunks = [
            (policy[start : start + CHUNK], reference[start : start + CHUNK])
            for policy, reference in zip(self._hidden_states(), self.reference, strict=True)
            for start in range(0, policy.shape[0], CHUNK)
        ]
        sums: list[Any] = [part.item() for _, part in parallel_map(self._kl_sum, chunks)]
        return sum(sums) / sum(policy.shape[0] for policy, _ in chunks)

    def _kl_sum(self, states: tuple[mx.array, mx.array]) -> mx.array:
        policy, reference = (nn.log_softmax(self.stack.head.logits(hidden).astype(mx.float32)) for hidden in states)
        return (mx.exp(policy) * (policy - reference)).sum()

    def _hidden_states(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[mx.array]:
        """Return the hidden states ``(tokens, width)`` that predict the chosen completions, for each part."""
        sizes = [sum(len(part.rows) for part in batch.parts) for batch in self.batches]
        with without_gradients(self.stack):
            states = []
            progress(0, sum(sizes))
            for number, batch in enumerate(self.batches):
                self.stack.streams.share_cores(len(batch.parts))
                for part, part_states in zip(
                    batch.parts, target_states(self.stack, batch.arrays(self.cache), sides=1), strict=True
                ):
                    pairs = len(part.rows)
                    chosen = np.array(part.target_index)[:pairs][np.array(part.mask)[:pairs] > 0]
                    states.append(part_states[mx.array(chosen)])
                mx.eval(states)
                progress(sum(sizes[: number + 1]), sum(sizes))
            self.stack.streams.share_cores(1)
            return states


def displacement(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return the nats that chosen and rejected answers lost if the model unlearns both, otherwise nothing.

    This is likelihood displacement (Razin et al. 2024, arXiv:2410.08847).
    """
    chosen, rejected, length = (metrics.get(name) for name in ("drift/chosen", "drift/rejected", "lengths/chosen"))
    if chosen is None or rejected is None or not length or rejected >= 0 or chosen / length > -DISPLACED:
        return {}
    return {"chosen": -chosen, "rejected": -rejected}
