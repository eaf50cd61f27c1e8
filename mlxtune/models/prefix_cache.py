"""Compute the common prefix of many prompts once, and continue from it in batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.models.cpu import streams
from mlxtune.models.encoded import common_prefix
from mlxtune.models.head import BackboneHead, split_head

_GROUPED_MASK = ("gemma2",)  # its attention code puts query heads that share a key head on a separate axis
MAX_POSITIONS = 32_768  # positions in the caches of a batch, where every row has a copy of the prefix
LAST_POSITIONS = MAX_POSITIONS * 5 // 4  # the same for the last batch
STEP = 1024  # positions per forward pass
CPU_PART = 256  # the same when parts run in parallel: results stay in a core's cache, and cores finish at similar times


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """The ``tokens`` that all prompts start with, and each layer's keys and values for them. ``head`` is the model."""

    head: BackboneHead
    tokens: tuple[int, ...]
    caches: list[KVCache]
    grouped_mask: bool

    def __len__(self) -> int:
        return len(self.tokens)

    def prefill(self, tails: Sequence[Sequence[int]]) -> tuple[mx.array, list[BatchKVCache]]:
        """Return hidden states ``(rows, width, hidden)`` of left-padded ``tails``, and a cache per layer to continue with.

        A single row is computed in pieces of :data:`STEP` tokens, so that its whole attention matrix is never in memory.
        """
        width = max(map(len, tails))
        is_padded = any(len(tail) < width for tail in tails)
        padding = mx.array([width - len(tail) for tail in tails])
        tokens = mx.array([[0] * (width - len(tail)) + list(tail) for tail in tails])
        caches = [BatchKVCache(cache, len(self), padding, is_padded, self.grouped_mask) for cache in self.caches]
        return forward_in_steps(self.head, tokens, caches, STEP if len(tails) == 1 else width), caches


def batches(lengths: Sequence[int], max_rows: int, *, extra: int = 0, max_computed: int = 0) -> Iterator[list[int]]:
    """Yield batches of indices into ``lengths``, the lengths of prompt tails; similar lengths share a batch.

    A batch of more than one row holds at most :data:`MAX_POSITIONS` keys, including ``extra`` per row, such as a copy of the
    prefix, and computes at most ``max_computed`` positions, including padding (0: no limit). The last batch may hold
    :data:`LAST_POSITIONS` keys, because a few rows in a batch of their own would take almost as long as many.
    """
    batch: list[int] = []
    longest = max(lengths, default=0) + extra
    for done, index in enumerate(sorted(range(len(lengths)), key=lambda index: lengths[index])):
        rows, length = len(batch) + 1, lengths[index]
        rest = len(lengths) - done + len(batch)  # from the batch's first row to the end
        is_last = rest <= max_rows and rest * longest <= LAST_POSITIONS
        most = LAST_POSITIONS if is_last else MAX_POSITIONS
        full = rows > max_rows or rows * (length + extra) > most or 0 < max_computed < rows * length
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def part_size() -> int:
    """Return the number of positions that a part of a batch should have."""
    return CPU_PART if streams.default_size() > 1 else STEP


class PrefixCache:
    """Computes shared prefixes for a model with its current adapter, reusing the part that matches the previous prefix.

    The arms of an evaluation start with the same system turn, so it is computed once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._last: SharedPrefix | None = None
        self._grouped_mask = type(model).__module__.rsplit(".", 1)[-1] in _GROUPED_MASK

    def __call__(self, prompts: Sequence[Sequence[int]]) -> SharedPrefix | None:
        """Return the common prefix of ``prompts``, leaving at least one token of each.

        Returns ``None`` for architectures that cache more than keys and values (recurrent layers), or whose results change with
        such a cache.
        """
        head, caches = self._head, complete_caches(self._model)
        if head is None or caches is None:
            return None
        tokens = tuple(prompts[0][: min(common_prefix(prompts), min(map(len, prompts)) - 1)])
        known = common_prefix([tokens, self._last.tokens]) if self._last and tokens else 0
        if self._last and known:
            for new, old in zip(caches, self._last.caches, strict=True):
                new.keys, new.values = (array[:, :, :known] for array in old.state[:2])
                new.offset = known
        if tokens[known:]:
            mx.eval(forward_in_steps(head, mx.array([tokens[known:]]), caches))
        self._last = SharedPrefix(head, tokens, caches, self._grouped_mask)
        return self._last

    @cached_property
    def _head(self) -> BackboneHead | None:
        """The model's backbone and head if they continue a shared prefix correctly, verified on a few tokens."""
        caches = complete_caches(self._model)
        if caches is None:
            return None
        head = split_head(self._model)
        prefix, tails, following = [1, 5], [[2, 9, 4, 7], [3]], [8, 6]
        with suppress_model_errors():
            head.backbone(mx.array([prefix]), caches)
            hidden, rows = SharedPrefix(head, (*prefix,), caches, self._grouped_mask).prefill(tails)
            hidden = mx.concatenate([hidden[:, -1:], head.backbone(mx.array(following)[:, None], rows)], axis=1)
            expected = mx.stack(
                [self._model(mx.array([[*prefix, *tail, token]]))[0, -2:] for tail, token in zip(tails, following, strict=True)]
            )
            return head if same_logits(head.logits(hidden), expected) else None
        return None


def same_logits(actual: mx.array, expected: mx.array) -> bool:
    """Return whether two computations of the same logits differ only by rounding. NaNs on the expected side prove nothing.

    The norm of the difference is compared with that of the logits. With the 30 layers of the bundled model, plain code in 16 bits is
    5% (f16) to 14% (bf16) away from float32, so two computations differ by up to 20%. Wrong keys change logits by more than 100%.
    """
    actual, wanted = actual.astype(mx.float32), expected.astype(mx.float32)
    tolerance = 1e-3 if expected.dtype == mx.float32 else 0.2
    same = mx.linalg.norm((actual - wanted).flatten()) <= tolerance * mx.linalg.norm(wanted.flatten())
    return bool((mx.isnan(wanted).any() | same).item())


class SlidingKVCache(KVCache):
    """The keys and values of a layer with a sliding ``window``, none of which are dropped: the mask hides those outside it."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def make_mask(self, length: int, window_size: int | None = None, **options: Any) -> Any:
        return super().make_mask(length, window_size=window_size or self.window, **options)


def complete_caches(model: nn.Module) -> list[KVCache] | None:
    """Return an empty cache of all keys and values per layer, or ``None`` if a layer caches something else."""
    caches = []
    for cache in make_prompt_cache(model):
        if type(cache) is RotatingKVCache and not cache.keep:
            caches.append(SlidingKVCache(cache.max_size))
        elif type(cache) is KVCache:
            caches.append(cache)
        else:
            return None
    return caches


def forward_in_steps(head: BackboneHead, tokens: mx.array, caches: Sequence[Any], step: int = STEP) -> mx.array:
    """Return the hidden states of ``tokens`` ``(rows, width)``, computed ``step`` columns at a time."""
    hidden = []
    for start in range(0, tokens.shape[1], step):
        hidden.append(head.backbone(tokens[:, start : start + step], caches))
        if tokens.shape[1] > step:
            mx.eval(hidden[-1])
    return mx.concatenate(hidden, axis=1) if len(hidden) > 1 else hidden[0]


class BatchKVCache:
    """One layer's keys and values for a batch: a shared prefix, then each row's left-padded tail, then its generated tokens.

    mlx-lm's batch cache would pad the prefix of every row, and cannot be split, joined or indexed.
    """

    def __init__(self, prefix: KVCache, prefix_length: int, padding: mx.array, is_padded: bool, grouped_mask: bool) -> None:
        """``prefix`` holds ``prefix_length`` tokens. ``padding`` ``(rows,)`` is the left padding of each tail."""
        self.prefix_length, self.length, self.grouped_mask = prefix_length, 0, grouped_mask
        self.padding, self.is_padded = padding, is_padded
        self.window = prefix.window if isinstance(prefix, SlidingKVCache) else None
        prefixes = [array[:, :, :prefix_length] for array in prefix.state[:2]] if prefix_length else []
        # keys and values; none before the first token
        self.arrays = [mx.repeat(array, padding.shape[0], axis=0) for array in prefixes]

    @property
    def offset(self) -> mx.array | int:
        """The position of each row's next token, ``(rows,)``, or one position for all rows if none is padded."""
        end = self.prefix_length + self.length
        return end - self.padding if self.is_padded else end

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        end = self.prefix_length + self.length
        new, both = keys.shape[2], [keys, values]
        if new > 1 and self.is_padded:  # at negative positions, some architectures compute NaN, and 0 times NaN is NaN
            is_token = (mx.arange(self.length, self.length + new) >= self.padding[:, None])[:, None, :, None]
            both = [mx.where(is_token, array, 0) for array in both]
        self.arrays = self.arrays or [mx.zeros((*array.shape[:2], 0, array.shape[3]), array.dtype) for array in both]
        if end + new > self.arrays[0].shape[2]:  # grow in steps, with one copy for many tokens
            self.arrays = [
                mx.concatenate([old[:, :, :end], mx.zeros((*like.shape[:2], max(new, 64), like.shape[3]), like.dtype)], axis=2)
                for old, like in zip(self.arrays, both, strict=True)
            ]
        for array, own in zip(self.arrays, both, strict=True):
            array[:, :, end : end + new] = own
        self.length += new
        keys, values = (array[:, :, : end + new] for array in self.arrays)
        return keys, values

    def make_mask(self, length: int, window_size: int | None = None, **_: Any) -> mx.array | None:
        """Return the causal mask without padding: bool ``(rows, 1, length, columns)``, with an extra axis if ``grouped_mask``.

        With a window, each token attends to itself and the ``window_size - 1`` tokens before it. ``None`` for
        single tokens that attend to everything before them.
        """
        end, window = self.prefix_length + self.length, window_size or self.window
        if length == 1 and not self.is_padded and (not window or end < window):
            return None
        columns, padding = mx.arange(end + length), self.padding[:, None]
        queries = mx.arange(end, end + length)[:, None]
        in_prefix = columns[None] < self.prefix_length
        visible = in_prefix | (columns[None] >= self.prefix_length + padding)
        mask = (columns[None] <= queries)[None] & visible[:, None]
        if window:
            positions = columns[None] - mx.where(in_prefix, 0, padding)
            mask &= (queries - padding[:, :, None]) < positions[:, None] + window
        mask = mask[:, None]
        return mask[:, None] if self.grouped_mask else mask

    @classmethod
    def concatenate(cls, parts: Sequence[BatchKVCache]) -> BatchKVCache:
        """Join batches that continue the same prefix and have generated nothing yet."""
        if len(parts) == 1:
            return parts[0]
        length = max(part.length for part in parts)
        joined = copy.copy(parts[0])
        joined.length = length
        joined.is_padded = any(part.is_padded or part.length < length for part in parts)
        joined.padding = mx.concatenate([part.padding + (length - part.length) for part in parts])
        joined.arrays = [mx.concatenate(list(arrays)) for arrays in zip(*(part._widened(length) for part in parts), strict=True)]
        return joined

    def _widened(self, length: int) -> Iterator[mx.array]:
        """Yield the keys and the values with the tail left-padded to ``length``."""
        start, end = self.prefix_length, self.prefix_length + self.length
        for array in self.arrays:
            gap = mx.zeros((*array.shape[:2], length - self.length, array.shape[3]), array.dtype)
            parts = [array[:, :, :start], gap, array[:, :, start:end]]
            yield mx.concatenate(parts, axis=2) if length > self.length else array[:, :, :end]

    def without_prefix(self) -> BatchKVCache:
        """Return the same keys and values as tails that begin with the prefix, so that they can be joined with those of other prefixes."""
        other, start = copy.copy(self), self.prefix_length
        other.prefix_length, other.length = 0, start + self.length
        columns, padding = mx.arange(other.length), self.padding[:, None]
        moved = mx.where(columns < padding, start + columns, mx.where(columns < padding + start, columns - padding, columns))
        moved = moved[:, None, :, None]
        other.arrays = [mx.take_along_axis(array[:, :, : other.length], moved, axis=2) for array in self.arrays]
        return other

    def select(self, rows: mx.array) -> BatchKVCache:
        """Return a new batch with the given ``rows``, which may contain repeats."""
        other = copy.copy(self)
        other.filter(rows)
        return other

    def filter(self, rows: mx.array) -> None:
        self.arrays, self.padding = [array[rows] for array in self.arrays], self.padding[rows]
