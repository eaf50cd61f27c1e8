"""Log-probabilities of preference pairs, with each prompt computed once.

The batch's prefix runs first, as one sequence. Next, each pair runs as one row: its stem, its chosen completion, and its rejected
completion. A mask hides the chosen completion from the rejected one, whose positions continue the stem's. So a batch of pairs has one
width, and is padded as little as one of rows. This computes the same sums as whole sequences, in a different order, with half the work
if prompts are long or answers begin with the same tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.data.rows import Location
from mlxtune.models.encoded import EncodedPair
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack, RecordingCache, TrainingPrefixCache, all_close, plain_attention
from mlxtune.training.objective import Arrays, TrainingBatch
from mlxtune.training.preference.batches import collate, inference_groups


def logps(stack: LayerStack, arrays: Arrays) -> list[mx.array]:
    """Return the completions' log-probabilities for each part: float32 ``(2 pairs,)``, chosen first. Lazy and differentiable."""
    sums = []
    for stream, states in enumerate(target_states(stack, arrays)):
        with stack.streams(stream):
            each = stack.log_probs(states, arrays["targets"][stream]).astype(mx.float32)
            sums.append((each[arrays["target_index"][stream]] * arrays["mask"][stream]).sum(axis=1))
    return sums


def target_states(stack: LayerStack, arrays: Arrays) -> list[mx.array]:
    """Return the hidden states ``(targets, width)`` that predict the targets of each part."""
    frozen = list(arrays["frozen_outputs"])
    prefix: list[RecordingCache] = []
    if arrays["prefix"]:
        prefix, _ = stack.run_prefix(arrays["prefix"][0], frozen.pop(0) if frozen else None)
    states = []
    for stream, inputs in enumerate(arrays["inputs"]):
        with stack.streams(stream):
            if arrays["branches"]:
                blocks = [_run_pairs(stack, prefix, inputs[0], arrays["branches"][stream], frozen[stream] if frozen else None)]
            elif inputs[0].shape == inputs[1].shape:  # one block with twice as many rows is faster than two blocks
                blocks = [stack.hidden_states(mx.concatenate(list(inputs)))]
            else:
                blocks = [stack.hidden_states(side) for side in inputs]
            flat = mx.concatenate([block.reshape(-1, block.shape[-1]) for block in blocks])
            states.append(flat[arrays["positions"][stream]])
    return states


def can_share_prompts(stack: LayerStack) -> bool:
    """Whether sharing prompts reproduces this model's own log-probabilities: plain attention, verified on three small pairs."""
    if not plain_attention(stack.model):
        return False
    prompts = (np.array(prompt, np.int32) for prompt in ([1, 5, 2, 9, 4, 7], [1, 5, 6], [1, 5, 3, 8]))
    chosen, rejected = np.array([4, 8, 2], np.int32), np.array([4, 8, 1, 9, 3], np.int32)
    pairs = [EncodedPair("trial", Location(Path("trial"), 0), prompt, chosen, rejected, (3, 5)) for prompt in prompts]
    with suppress_model_errors(), stack.evaluating():
        batches = [
            collate(pairs, [[0, 1, 2]], share_prompts=share_prompts, prefix=prefix)[0]
            for share_prompts, prefix in ((False, 0), (True, 0), (True, 2))
        ]
        expected, *others = (logps(stack, batch.arrays())[0] for batch in batches)
        return all(all_close(other, expected) for other in others)
    return False


class BranchCache(TrainingPrefixCache):
    """A layer's cache during the pass over pairs. Each row attends to the batch's prefix, and its rejected completion not to the chosen one.

    ``branches``, ``(pairs, 2)``, has the ends of the stems and of the chosen completions in rows of ``width`` tokens.
    """

    def __init__(self, prefix: RecordingCache | None, branches: mx.array, width: int) -> None:
        self.prefix, (self.stem, self.end) = prefix, mx.split(branches, 2, axis=1)
        self.before = 0 if prefix is None else prefix.keys.shape[2]
        at = mx.arange(width)
        self.offset: Any = self.before + mx.where(at < self.end, at, at - (self.end - self.stem))  # see RowPositions

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.prefix is None:
            return keys, values
        return self._join(self.prefix.keys, keys), self._join(self.prefix.values, values)

    def make_mask(self, length: int, **_: Any) -> Any:
        """Return a boolean mask ``(pairs, 1, length, prefix + length)``."""
        at, stem, end = mx.arange(length), self.stem[..., None], self.end[..., None]
        hidden = (at[:, None] >= end) & (at >= stem) & (at < end)
        own = (at <= at[:, None]) & ~hidden
        return mx.concatenate([mx.ones((*own.shape[:2], self.before), mx.bool_), own], axis=-1)[:, None]


def _run_pairs(
    stack: LayerStack, prefix: Sequence[RecordingCache], inputs: mx.array, branches: mx.array, frozen: mx.array | None = None,
    until: int | None = None,
) -> mx.array:  # fmt: skip
    """Return the hidden states ``(pairs, tokens, width)`` of pairs, one per row, after the recorded ``prefix`` if there is one.

    ``frozen`` has the frozen layers' outputs, if known. With ``until``, stop before that layer.
    """
    start, end = stack.first_adapted if frozen is not None else 0, stack.depth if until is None else until
    recorded: Sequence[RecordingCache | None] = prefix or [None] * (end - start)
    caches = [BranchCache(cache, branches, inputs.shape[1]) for cache in recorded]
    return stack.run(inputs, caches, until, frozen)


class PairCache(FrozenCache):
    """Caches the frozen layers' outputs for pairs with shared prompts, across epochs."""

    def group(self) -> list[list[int]]:
        return inference_groups(self.rows, self.prefix, share_prompts=True)

    def collate(self, indices: Sequence[int]) -> TrainingBatch:
        (batch,) = collate(self.rows, [indices], share_prompts=True, prefix=self.prefix, streams=self.stack.streams.size)
        return batch

    def run(self, batch: TrainingBatch, part: Any) -> mx.array:
        return _run_pairs(self.stack, self.prefix_caches, part.inputs[0], part.branches, until=self.stack.first_adapted)
