"""Log-probabilities of preference pairs, with each prompt computed once.

The batch's prefix runs first, as one sequence. Next, the stems run without their last tokens, padded on the right; their keys and
values are recorded as part of the graph. Finally, all chosen completions and all rejected completions run, each starting with its
stem's last token; a mask hides the stems' padding. The two sides are padded separately, because their lengths differ. This computes
the same sums as whole sequences, in a different order, with half the work if prompts are long or answers begin with the same
tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.data.rows import Location
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import magnitude
from mlxtune.training.frozen_cache import FrozenCache, fill_rows
from mlxtune.training.layer_stack import ChainedCache, LayerStack, RecordingCache, TrainingPrefixCache, plain_attention
from mlxtune.training.objective import Arrays
from mlxtune.training.preference.batches import collate, inference_groups, make_parts


def logps(stack: LayerStack, arrays: Arrays) -> list[mx.array]:
    """Return the completions' log-probabilities for each part: float32 ``(2 pairs,)``, chosen first. Lazy and differentiable."""
    sums = []
    for stream, states in enumerate(target_states(stack, arrays)):
        with stack.streams(stream):
            each = stack.log_probs(states, arrays["targets"][stream]).astype(mx.float32)
            sums.append((each[arrays["target_index"][stream]] * arrays["mask"][stream]).sum(axis=1))
    return sums


def target_states(stack: LayerStack, arrays: Arrays, sides: int = 2) -> list[mx.array]:
    """Return the hidden states ``(targets, width)`` that predict the targets of each part.

    With ``sides`` = 1, rejected completions are not computed, and the states for their own targets are undefined.
    """
    frozen = list(arrays["frozen_outputs"])
    prefix: list[RecordingCache] = []
    if arrays["prefix"]:
        prefix, _ = stack.run_prefix(arrays["prefix"][0], frozen.pop(0) if frozen else None)
    states = []
    for stream, inputs in enumerate(arrays["inputs"]):
        stems = arrays["stems"][stream] if arrays["stems"] else None
        part_frozen = frozen[stream][: 1 + sides] if frozen else ()
        with stack.streams(stream):
            blocks = _hidden_states(stack, prefix, stems, arrays["stem_lengths"][stream], inputs[:sides], part_frozen)
            flat = [block.reshape(-1, block.shape[-1]) for block in blocks]
            own = mx.concatenate(flat[-sides:])
            positions = mx.minimum(arrays["positions"][stream], own.shape[0] - 1)
            stem_positions = arrays["stem_positions"][stream]
            states.append(mx.concatenate([flat[0][stem_positions], own[positions]]) if stem_positions.size else own[positions])
    return states


def can_share_prompts(stack: LayerStack) -> bool:
    """Whether sharing prompts reproduces this model's own log-probabilities: plain attention, verified on three small pairs."""
    model = stack.model
    if not plain_attention(model):
        return False
    prompts = (np.array(prompt, np.int32) for prompt in ([1, 5, 2, 9, 4, 7], [1, 5, 6], [1, 5, 3, 8]))
    chosen, rejected = np.array([4, 8, 2], np.int32), np.array([4, 8, 1, 9, 3], np.int32)
    pairs = [EncodedPair("trial", Location(Path("trial"), 0), prompt, chosen, rejected, (3, 5)) for prompt in prompts]
    training, agree = model.training, False
    model.eval()
    with suppress_model_errors():
        batches = [
            collate(pairs, [[0, 1, 2]], share_prompts=share_prompts, prefix=prefix)[0]
            for share_prompts, prefix in ((False, 0), (True, 0), (True, 2))
        ]
        expected, *others = (logps(stack, batch.arrays())[0] for batch in batches)
        agree = all(mx.allclose(expected, other, rtol=1e-2, atol=1e-2 * magnitude(expected)).item() for other in others)
    model.train(training)
    return agree


class PerRowPrefixCache(TrainingPrefixCache):
    """A layer's cache during the pass over completions. Row i attends to stem i, then to itself.

    ``keys`` and ``values`` are ``(pairs, heads, stem, width)``; ``lengths``, ``(pairs,)``, has the stems' lengths without padding.
    """

    def __init__(self, keys: mx.array, values: mx.array, lengths: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset: Any = lengths  # rope accepts an offset per row as well as a single offset

    def make_mask(self, length: int, **_: Any) -> Any:
        """Return a boolean mask ``(pairs, 1, length, stem + length)``."""
        stem = mx.arange(self.keys.shape[2]) < self.offset[:, None, None, None]
        own = mx.arange(length) <= mx.arange(length)[:, None]
        shape = (self.offset.shape[0], 1, length)
        parts = [mx.broadcast_to(stem, (*shape, stem.shape[-1])), mx.broadcast_to(own, (*shape, length))]
        return mx.concatenate(parts, axis=-1)


class PairCache(FrozenCache):
    """Caches the frozen layers' outputs for pairs with shared prompts, across epochs."""

    def __init__(self, stack: LayerStack, pairs: Sequence[EncodedPair], prefix: int = 0, *, budget: int, folder: Path) -> None:
        super().__init__(stack, [], prefix, budget=budget, folder=folder)
        self.pairs = pairs
        self.groups = inference_groups(pairs, prefix, share_prompts=True)
        self._group = {index: number for number, indices in enumerate(self.groups) for index in indices}
        self._computed: set[int] = set()

    def outputs(self, batch: Any) -> list[Any]:
        """Return ``(1, prefix, width)`` if there is a prefix, then three arrays for each part of the :class:`PairBatch`.

        The three arrays are ``(pairs, stem, width)`` for the stems and ``(pairs, tokens, width)`` for each side.
        """
        self._compute_prefix(self.pairs[0].prompt)
        for number in sorted({self._group[index] for part in batch.parts for index in part.rows} - self._computed):
            self._compute(number)
        arrays: list[Any] = [] if batch.prefix is None else [self._prefix_output]
        for part in batch.parts:
            rows = fill_rows(batch, part, part.stems.shape[0])
            stems = self._gather(_block_keys(rows, 0), part.stems.shape[1])
            if batch.prefix is None and self._prefix_output is not None:  # a single pair has no shared prefix
                stems = mx.concatenate([self._prefix_output, stems], axis=1)[:, : part.stems.shape[1]]
            sides = [self._gather(_block_keys(rows, side), block.shape[1]) for side, block in enumerate(part.inputs, 1)]
            arrays.append([stems, *sides])
        return arrays

    def _compute(self, number: int) -> None:
        stack, streams = self.stack, self.stack.streams
        parts = make_parts(self.pairs, self.groups[number], True, self.prefix, streams.size)
        streams.share_cores(len(parts))
        outputs = []
        for stream, part in enumerate(parts):
            with streams(stream):
                arrays = part.stems, part.stem_lengths, part.inputs
                outputs.append(_hidden_states(stack, self._prefix_caches, *arrays, until=stack.first_adapted))
        mx.eval(outputs)
        for part, blocks in zip(parts, outputs, strict=True):
            for side, block in enumerate(blocks):
                block_number = len(self._blocks)
                self._store(block_number, block)
                self._position.update({key: (block_number, line) for line, key in enumerate(_block_keys(part.rows, side))})
        self._computed.add(number)


def _hidden_states(
    stack: LayerStack,
    prefix: Sequence[RecordingCache],
    stems: mx.array | None,
    stem_lengths: mx.array,
    inputs: Sequence[mx.array],
    frozen: Any = (),
    until: int | None = None,
) -> list[mx.array]:
    """Return the hidden states of ``stems``, if they run separately, and of each of ``inputs``.

    ``prefix`` has the recorded caches of the batch's prefix. ``frozen`` has the frozen layers' outputs for stems and inputs, if
    known. With ``until``, stop before that layer.
    """
    if stems is None:
        return [stack.hidden_states(side, until=until) for side in inputs]
    stem_frozen, *side_frozen = frozen or (None,) * (1 + len(inputs))
    start, end = stack.first_adapted if frozen else 0, stack.depth if until is None else until
    caches: list[RecordingCache] = [ChainedCache(cache.keys, cache.values) for cache in prefix]
    caches = caches or [RecordingCache() for _ in range(start, end)]
    hidden = [stack.run(stems, caches, start, until, stem_frozen)]

    def after_stems(rows: mx.array, frozen: mx.array | None, copies: int = 1) -> mx.array:
        """Return the hidden states of ``rows``, each after its stem. The stems are repeated ``copies`` times."""
        lengths = mx.concatenate([stem_lengths] * copies)
        arrays = [[mx.concatenate([array] * copies) for array in (cache.keys, cache.values)] for cache in caches]
        return stack.run(rows, [PerRowPrefixCache(keys, values, lengths) for keys, values in arrays], start, until, frozen)

    if len(inputs) == 2 and inputs[0].shape == inputs[1].shape:  # one block with twice as many rows is faster than two blocks
        both_frozen = mx.concatenate([side for side in side_frozen if side is not None]) if frozen else None
        return [*hidden, *mx.split(after_stems(mx.concatenate(list(inputs)), both_frozen, copies=2), 2)]
    return hidden + [after_stems(side, side_outputs) for side, side_outputs in zip(inputs, side_frozen, strict=True)]


def _block_keys(pairs: Sequence[int], side: int) -> list[int]:
    """Return the cache keys of the pairs' stems (``side`` 0), chosen completions (1) or rejected completions (2)."""
    return [3 * index + side for index in pairs]
