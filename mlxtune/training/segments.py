"""Gradients of rows that are longer than memory, computed segment by segment.

Activations of only one segment exist at a time. A first pass keeps the keys and values of all segments. A second pass goes from the last
segment to the first: each is computed again after the keys and values before it, which collect the gradients of all later segments. This
computes the same sums as whole rows, in a different order, with the work of gradient checkpointing (Chen et al. 2016, arXiv:1604.06174).
"""

from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlxtune.training.layer_stack import LayerStack, RecordingCache, TrainingPrefixCache
from mlxtune.training.objective import Arrays

KeysAndValues = list[list[mx.array]]  # of each layer, (rows, heads, tokens, width)


class SegmentCache(TrainingPrefixCache):
    """A layer's cache during the pass over a segment. Attends to earlier segments, and records its own keys and values."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.before, self.offset = (keys, values), keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return self._join(self.before[0], keys), self._join(self.before[1], values)


def segment_gradients(stack: LayerStack, arrays: Arrays, segment: int) -> Any:
    """Return ``((loss, metrics), gradients)`` of cross-entropy, ``segment`` tokens at a time, for rows with plain attention."""
    (inputs,), frozen, prefix = arrays["inputs"], list(arrays["frozen_outputs"]), 0
    if arrays["prefix"]:  # computed in each row
        (tokens,) = arrays["prefix"]
        prefix = tokens.size
        inputs = mx.concatenate([mx.broadcast_to(tokens, (inputs.shape[0], prefix)), inputs], axis=1)
        frozen[:1] = [mx.broadcast_to(output, (inputs.shape[0], *output.shape[1:])) for output in frozen[:1]]
    run = _SegmentRun(stack, inputs, mx.concatenate(frozen, axis=1) if frozen else None)
    rows, at = np.divmod(np.array(arrays["positions"][0]), inputs.shape[1] - prefix)
    at += prefix
    edges = [*range(0, inputs.shape[1], segment), inputs.shape[1]]
    kept: list[KeysAndValues] = []
    for start, end in pairwise(edges[:-1]):
        kept.append(run.keys_and_values(start, end, _joined(kept)))
    loss, gradients = mx.array(0.0), None
    later: KeysAndValues = []  # the gradients of the keys and values before the segment
    for number, (start, end) in reversed([*enumerate(pairwise(edges))]):
        (chosen,) = np.nonzero((at >= start) & (at < end))
        where = mx.array(rows[chosen] * (end - start) + at[chosen] - start)
        targets, weights = (arrays[name][0][mx.array(chosen)] for name in ("targets", "weights"))
        own = tree_map(lambda array, first=start: array[:, :, first:], later)
        part, new, before = run.gradients(start, end, _joined(kept[:number]), (where, targets, weights), own)
        if later:
            before = tree_map(lambda one, other, first=start: one + other[:, :, :first], before, later)
        loss, later = loss + part, before
        gradients = new if gradients is None else tree_map(mx.add, gradients, new)
        mx.eval(loss, gradients, later)
    return (loss, mx.zeros((0,))), gradients


class _SegmentRun:
    """Runs segments of ``inputs``, with the frozen layers' outputs if they are known. Dropout repeats in the second pass."""

    def __init__(self, stack: LayerStack, inputs: mx.array, frozen: mx.array | None) -> None:
        self.stack, self.inputs, self.frozen = stack, inputs, frozen
        self.seed: Any = mx.random.randint(0, 2**30).item()

    def hidden(self, start: int, end: int, before: KeysAndValues) -> tuple[mx.array, list[RecordingCache]]:
        mx.random.seed(self.seed + start)
        layers = range(0 if self.frozen is None else self.stack.first_adapted, self.stack.depth)
        caches: list[RecordingCache] = [SegmentCache(*each) for each in before] if before else [RecordingCache() for _ in layers]
        frozen = None if self.frozen is None else self.frozen[:, start:end]
        return self.stack.run(self.inputs[:, start:end], caches, None, frozen), caches

    def keys_and_values(self, start: int, end: int, before: KeysAndValues) -> KeysAndValues:
        _, caches = self.hidden(start, end, before)
        kept = [[cache.keys, cache.values] for cache in caches]
        mx.eval(kept)
        return kept

    def gradients(self, start: int, end: int, before: KeysAndValues, scored: Any, later: Any) -> tuple[mx.array, Any, Any]:
        """Return the loss of a segment, and the gradients of the adapter and of ``before``, with those that ``later`` segments pass on."""
        model, (where, targets, weights) = self.stack.model, scored

        def total(parameters: Any, before: KeysAndValues) -> tuple[mx.array, mx.array]:
            model.update(parameters)
            hidden, caches = self.hidden(start, end, before)
            loss = mx.array(0.0)
            if where.size:
                flat = hidden.reshape(-1, hidden.shape[-1])[where]
                loss = -(self.stack.log_probs(flat, targets) * weights).sum()
            passed = [
                (getattr(cache, name) * one).sum()
                for cache, each in zip(caches, later or (), strict=bool(later))
                for name, one in zip(("keys", "values"), each, strict=True)
            ]
            return loss + sum(part.astype(mx.float32) for part in passed), loss

        own = model.trainable_parameters()
        try:
            (_, loss), (gradients, of_before) = mx.value_and_grad(total, argnums=(0, 1))(own, before)
        finally:
            model.update(own)
        return loss, gradients, of_before


def _joined(kept: list[KeysAndValues]) -> KeysAndValues:
    """Return the keys and values of consecutive segments, for each layer."""
    return [[mx.concatenate(list(parts), axis=2) for parts in zip(*layer, strict=True)] for layer in zip(*kept, strict=True)]
