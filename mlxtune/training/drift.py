"""How far a policy has gone from its reference, and what it lost on the way: what a falling preference loss does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlxtune.models.head import CHUNK
from mlxtune.models.lanes import side_by_side
from mlxtune.models.template import EncodedPair
from mlxtune.training.pairs import PairCache, collate, groups, predicting
from mlxtune.training.reference import identity
from mlxtune.training.stack import Stack

PAIRS = 16  # held-out prompts that are looked at
DISPLACED = 0.05  # nats a token: how much less likely chosen answers may become beside the rejected ones


class Distance:
    """KL(policy ‖ reference) of the next token, in nats, over the chosen answers to held-out prompts: exact, not sampled.

    Made while the model is still the reference. Hidden states of that moment are kept, and not logits, which the head makes of them a
    chunk at a time; where the head learns too it would compare with itself, so there is no answer.
    """

    def __init__(
        self, stack: Stack, pairs: Sequence[EncodedPair], *, shared: bool, prefix: int = 0, cache: PairCache | None = None
    ) -> None:
        """``shared`` and ``prefix`` are as in ``pairs.collate``; ``cache`` is one of these pairs."""
        some = pairs[:PAIRS]
        self.stack, self.cache = stack, cache
        together = groups(some, prefix, shared=shared)
        self.batches = collate(some, together, shared=shared, prefix=prefix, lanes=stack.lanes.count)
        self.identity = identity(stack.model)
        learning = tree_flatten(stack.model.trainable_parameters())
        self.reference = self._hidden() if all("layers." in name for name, _ in learning) else []

    def __call__(self) -> float | None:
        """The mean over all tokens of these answers; of the same adapter 0, without computing it."""
        if not self.reference:
            return None
        if identity(self.stack.model) == self.identity:
            return 0.0
        chunks = [
            (ours[start : start + CHUNK], theirs[start : start + CHUNK])
            for ours, theirs in zip(self._hidden(), self.reference, strict=True)
            for start in range(0, ours.shape[0], CHUNK)
        ]
        parts = side_by_side(chunks, lambda both: _divergence(*(_logp(self.stack, hidden) for hidden in both)))
        sums: list[Any] = [part.item() for _, part in parts]
        return sum(sums) / sum(ours.shape[0] for ours, _ in chunks)

    def _hidden(self) -> list[mx.array]:
        """Of each part, ``(tokens, width)``: a row wherever a token of a chosen answer is predicted."""
        training, checkpointed = self.stack.model.training, self.stack.checkpointed
        try:
            self.stack.model.eval()
            self.stack.checkpointed = False
            made = []
            for batch in self.batches:
                self.stack.lanes.share(len(batch.parts))
                arrays = batch.arrays | {"entering": self.cache.entering(batch) if self.cache else []}
                for part, states in zip(batch.parts, predicting(self.stack, arrays, sides=1), strict=True):
                    chosen = np.array(part.where)[: len(part.rows)][np.array(part.mask)[: len(part.rows)] > 0]
                    made.append(states[mx.array(chosen)])
                mx.eval(made)
            return made
        finally:
            self.stack.lanes.share(1)
            self.stack.model.train(training)
            self.stack.checkpointed = checkpointed


def displaced(metrics: Mapping[str, float | None]) -> str:
    """A warning when the model learns to say neither answer (likelihood displacement, Razin et al. 2024, arXiv:2410.08847)."""
    chosen, rejected, length = (metrics.get(name) for name in ("drift/chosen", "drift/rejected", "lengths/chosen"))
    if chosen is None or rejected is None or not length or rejected >= 0 or chosen / length > -DISPLACED:
        return ""
    return (
        f"Chosen answers become less likely too: by {-chosen:.1f} nats each, rejected ones by {-rejected:.1f} "
        '(likelihood displacement). Lower training.learning_rate, or train with loss = ["sigmoid", "sft"].'
    )


def _divergence(policy: mx.array, other: mx.array) -> mx.array:
    return (mx.exp(policy) * (policy - other)).sum()


def _logp(stack: Stack, hidden: mx.array) -> mx.array:
    logits = stack.split.logits(hidden).astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
