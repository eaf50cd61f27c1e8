"""Batches of preference pairs. Each prompt occurs once, followed by its chosen and rejected completions in the same row.

A *stem* is a prompt plus the tokens that both of its completions begin with. The tokens that all prompts begin with are the batch's
prefix. ``forward`` describes how they are computed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.data import batching
from mlxtune.data.batching import PaddedShapes, PairLengths, Shape, group_pairs, padded_length
from mlxtune.models.encoded import EncodedPair, common_prefix
from mlxtune.training.frozen_cache import GROUP_TOKENS, FrozenCache
from mlxtune.training.objective import Arrays, TrainingBatch
from mlxtune.training.sft import MIN_PREFIX


@dataclass(frozen=True)
class PairPart:
    """The pairs computed by one stream."""

    rows: tuple[int, ...]  # without the empty pairs that pad a batch to a shape
    # int32 (pairs, tokens) each, without the prefix: one row per pair, or the longer and the shorter sequences of all pairs
    inputs: tuple[mx.array, ...]
    branches: mx.array | None  # int32 (pairs, 2): where the stems and the chosen completions in a row end; None for whole sequences
    positions: mx.array  # int32 (targets,): indices in the flattened inputs, concatenated
    targets: mx.array  # int32 (targets,)
    target_index: mx.array  # int32 (2 pairs, completion): the index in targets of each token of a completion
    mask: mx.array  # float32, of the same shape: marks real tokens
    reference: mx.array  # float32 (2 pairs,): log-probabilities of chosen, then rejected completions; NaN if unknown
    weights: mx.array  # float32 (pairs,): 0 for an empty pair, otherwise 1
    labels: mx.array  # float32 (pairs,): for KTO, 1 if the chosen completion is desirable, otherwise 0


@dataclass(frozen=True)
class PairBatch(TrainingBatch):
    mean_length: float  # of the step's chosen completions, in tokens

    def arrays(self, cache: FrozenCache | None = None) -> Arrays:
        return super().arrays(cache) | {"mean_length": mx.array(self.mean_length)}


def sides(pairs: Iterable[EncodedPair], prefix: int = 0) -> list[PairLengths]:
    """Return the lengths of each pair's stem (without ``prefix``) and of the remainder of both completions."""
    return [
        (len(pair.prompt) + common - prefix, len(pair.chosen) - common, len(pair.rejected) - common)
        for pair, common in ((pair, pair.common_length) for pair in pairs)
    ]


def shared_prefix(pairs: Sequence[EncodedPair]) -> int:
    """Return the number of tokens that all prompts begin with, excluding their last tokens; 0 if it is less than ``MIN_PREFIX``."""
    shared = min(common_prefix([pair.prompt.tolist() for pair in pairs]), *(len(pair.prompt) - 1 for pair in pairs))
    return shared if shared >= MIN_PREFIX and len(pairs) > 1 else 0


def inference_groups(
    pairs: Sequence[EncodedPair], prefix: int, indices: Sequence[int] | None = None, *, share_prompts: bool
) -> list[list[int]]:
    """Group ``pairs``, or those at ``indices``, into large batches for computing without gradients."""
    chosen = range(len(pairs)) if indices is None else indices
    return group_pairs(sides(pairs, prefix), chosen, shared=share_prompts, batch_tokens=GROUP_TOKENS, batch_size=0, prefix=prefix)


def collate(
    pairs: Sequence[EncodedPair],
    groups: Iterable[Sequence[int]],
    *,
    share_prompts: bool,
    prefix: int = 0,
    streams: int = 1,
    step: Sequence[int] = (),
    shapes: PaddedShapes | None = None,
) -> list[PairBatch]:
    """Return the batches of one optimizer step: one per group of indices of ``pairs``, split over ``streams``.

    With ``share_prompts``, stems are computed once, and their common ``prefix`` once per batch. ``step`` holds all pairs of the
    step when ``groups`` is one host's shard. Batches are padded to their shape in ``shapes``, if given.
    """
    groups = list(groups)
    step_pairs = step or [index for indices in groups for index in indices]
    mean = sum(len(pairs[index].chosen) for index in step_pairs) / max(1, len(step_pairs))
    batches = []
    for indices in groups:
        counts = {index: (len(pairs[index].tokens), int(pairs[index].trained.sum())) for index in indices}
        common = prefix if share_prompts else 0
        tokens = mx.array(pairs[indices[0]].prompt[:common]) if common else None
        shape = shapes[batch_shape(pairs, indices, share_prompts, common, streams)] if shapes else None
        rows, *sizes = shape or (len(indices),)
        parts = [
            _part(pairs, indices[stream::streams], share_prompts, common, (len(range(stream, rows, streams)), *sizes))
            for stream in range(min(streams, rows))
        ]
        batches.append(PairBatch(tokens, tuple(parts), counts, mean))
    return batches


def batch_shape(pairs: Sequence[EncodedPair], indices: Sequence[int], share_prompts: bool, prefix: int, streams: int) -> Shape:
    """Return the shape of the batch of the pairs at ``indices``; see ``batching.pair_batch_shape``."""
    chosen = [pairs[index] for index in indices]
    common = [pair.common_length for pair in chosen]
    return batching.pair_batch_shape(sides(chosen, prefix), common, streams, shared=share_prompts)


def _part(all_pairs: Sequence[EncodedPair], indices: Sequence[int], share_prompts: bool, prefix: int, shape: Shape) -> PairPart:
    """Return one stream's part of a batch: the pairs at ``indices``. ``shape`` has its number of pairs, and the other sizes if they are given."""
    count, *sizes = shape
    *widths, size, completion = sizes or (0,) * (3 if share_prompts else 4)
    pairs = [all_pairs[index] for index in indices]
    rows = [_pair_rows(pair, share_prompts, prefix) for pair in pairs]
    blocks = [*zip(*rows, strict=True)] or [()] * len(widths)
    inputs = [_pad_rows(block, count, width) for block, width in zip(blocks, widths, strict=True)]
    lengths, branches = np.zeros((2, count), np.int32), np.zeros((count, 2), np.int32)
    lengths[:, : len(pairs)] = [[len(pair.chosen) for pair in pairs], [len(pair.rejected) for pair in pairs]]
    target_index = np.zeros((2 * count, completion or padded_length(int(lengths.max()))), np.int32)
    mask = np.arange(target_index.shape[1]) < lengths.reshape(-1, 1)
    positions, targets = list[int](), list[int]()
    reference, labels = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)

    def predict(tokens: Any, first: int) -> range:
        """Add ``tokens``, predicted from position ``first`` onward, to the targets, and return their indices there."""
        positions.extend(range(first, first + len(tokens)))
        targets.extend(tokens.tolist())
        return range(len(targets) - len(tokens), len(targets))

    for line, pair in enumerate(pairs):
        reference[line] = pair.reference_logps or (np.nan, np.nan)  # not a number, so a loss that needs it fails
        labels[line] = bool(pair.label)
        first, common = len(pair.prompt) - 1 - prefix, pair.common_length if share_prompts else 0
        order = (0, 0) if share_prompts else (0, 1) if _chosen_is_longer(pair) else (1, 0)
        start, other = (sum(one.size for one in inputs[:block]) + line * inputs[block].shape[1] for block in order)
        chosen, rejected = (target_index[line + side * count] for side in (0, 1))
        chosen[: len(pair.chosen)] = predict(pair.chosen, start + first)
        rejected[:common] = chosen[:common]
        if share_prompts:  # the first token that differs is predicted from the stem, the others from the rejected completion itself
            branches[line] = first + 1 + common, first + len(pair.chosen)
            rejected[common] = predict(pair.rejected[common : common + 1], start + first + common)[0]
            rejected[common + 1 : len(pair.rejected)] = predict(pair.rejected[common + 1 :], start + int(branches[line, 1]))
        else:
            rejected[: len(pair.rejected)] = predict(pair.rejected, other + first)
    padding = [0] * ((size or padded_length(len(targets))) - len(targets))
    padded_positions, padded_targets = (mx.array(np.array(one + padding, np.int32)) for one in (positions, targets))
    real = (np.arange(count) < len(pairs)).astype(np.float32)
    return PairPart(
        tuple(indices), tuple(map(mx.array, inputs)), mx.array(branches) if share_prompts else None,
        padded_positions, padded_targets, mx.array(target_index), mx.array(mask.astype(np.float32)),
        mx.array(reference.T.flatten()), mx.array(real), mx.array(labels),
    )  # fmt: skip


def _chosen_is_longer(pair: EncodedPair) -> bool:
    return len(pair.chosen) >= len(pair.rejected)


def _pair_rows(pair: EncodedPair, share_prompts: bool, prefix: int) -> list[Any]:
    """Return the inputs of ``pair``: stem and both completions in one row or, if prompts are not shared, the longer and the shorter sequence."""
    if share_prompts:
        return [np.concatenate([pair.prompt[prefix:], pair.chosen[:-1], pair.rejected[pair.common_length : -1]])]
    sides = (pair.chosen, pair.rejected) if _chosen_is_longer(pair) else (pair.rejected, pair.chosen)
    return [np.concatenate([pair.prompt, side[:-1]]) for side in sides]


def _pad_rows(rows: Sequence[Any], count: int, width: int = 0) -> Any:
    """Return the token rows as one array of ``count`` rows, padded on the right to ``width`` or to one of a few fixed lengths."""
    out = np.zeros((count, width or padded_length(max(map(len, rows)))), np.int32)
    for line, row in enumerate(rows):
        out[line, : len(row)] = row
    return out
