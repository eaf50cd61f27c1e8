"""What many prompts begin with, computed once, and the batch of what each of them goes on with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.models import lanes
from mlxtune.models.head import Split, split
from mlxtune.models.template import common_prefix

_GROUPED = ("gemma2",)  # multiplies attention by itself, the query heads of one key head along an axis of their own
POSITIONS = 32_768  # keys and values of one batch: every row has its own copy of the prefix
TOGETHER = 1024  # positions that are computed at once
PART = 256  # the same where parts are computed side by side: a core's cache holds what comes of them, and no core waits long


@dataclass(frozen=True)
class Prefix:
    """``tokens`` that all prompts begin with, as each layer's keys and values. ``parts`` is the model."""

    parts: Split
    tokens: tuple[int, ...]
    caches: list[KVCache]
    grouped: bool

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, lengths: Sequence[int], most: int, *, more: int = 0, computed: int = 0) -> Iterator[list[int]]:
        """Indices of tails of ``lengths``, alike ones together, at most ``most`` in a batch.

        A batch, but for a single row, holds at most :data:`POSITIONS` keys, with its copies of the prefix and ``more`` for each row;
        and, where that is not 0, has ``computed`` positions, padding among them.
        """
        batch: list[int] = []
        for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
            rows = len(batch) + 1
            over = rows > most or rows * (len(self) + lengths[at] + more) > POSITIONS or 0 < computed < rows * lengths[at]
            if batch and over:
                yield batch
                batch = []
            batch.append(at)
        if batch:
            yield batch

    def begin(self, tails: Sequence[Sequence[int]]) -> tuple[mx.array, list[Rows]]:
        """Hidden states ``(rows, width, hidden)`` of ``tails`` with the padding on the left, and a cache for each layer to go on in.

        A row of more than :data:`TOGETHER` tokens is computed in pieces, so that no attention over all of it exists at one time.
        """
        width = max(map(len, tails))
        pads = mx.array([width - len(tail) for tail in tails])
        tokens = mx.array([[0] * (width - len(tail)) + list(tail) for tail in tails])
        caches = [Rows(cache, len(self), pads, self.grouped) for cache in self.caches]
        hidden = read(self.parts, tokens, caches, TOGETHER if len(tails) == 1 else width)
        return hidden, caches


def part() -> int:
    """How many positions a part of a batch had better have."""
    return PART if lanes.suitable() > 1 else TOGETHER


class Shared:
    """The prefixes of one model as it stands: each goes on from the one before it, as far as they agree.

    Several ways to ask the same rows begin alike: the arms of an evaluation read their common system turn once.
    """

    def __init__(self, model: nn.Module) -> None:
        """For ``model`` with the adapter that it has now; another one needs another ``Shared``."""
        self._model = model
        self._last: Prefix | None = None

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Prefix | None:
        """The prefix of ``prompts``, at most all but one token of each.

        ``None`` for architectures whose cache is not plain keys and values (sliding windows, recurrent layers).
        """
        caches = make_prompt_cache(self._model)
        if not all(type(cache) is KVCache for cache in caches):
            return None
        parts = self._last.parts if self._last else split(self._model)
        tokens = tuple(prompts[0][: min(common_prefix(prompts), min(map(len, prompts)) - 1)])
        known = common_prefix([tokens, self._last.tokens]) if self._last and tokens else 0
        if self._last and known:
            for new, old in zip(caches, self._last.caches, strict=True):
                new.keys, new.values = (array[:, :, :known] for array in old.state[:2])
                new.offset = known
        if tokens[known:]:
            mx.eval(read(parts, mx.array([tokens[known:]]), caches))
        grouped = type(self._model).__module__.rsplit(".", 1)[-1] in _GROUPED
        self._last = Prefix(parts, tokens, caches, grouped)
        return self._last


def read(parts: Split, tokens: mx.array, caches: Sequence[Any], step: int = TOGETHER) -> mx.array:
    """Hidden states of ``tokens`` ``(rows, width)``, ``step`` columns at a time."""
    hidden = []
    for start in range(0, tokens.shape[1], step):
        hidden.append(parts.backbone(tokens[:, start : start + step], caches))
        if tokens.shape[1] > step:
            mx.eval(hidden[-1])
    return mx.concatenate(hidden, axis=1) if len(hidden) > 1 else hidden[0]


class Rows:
    """A layer's keys and values for a batch: a shared prefix, then each row's own left-padded tail, then what it says."""

    def __init__(self, prefix: KVCache, shared: int, pads: mx.array, grouped: bool) -> None:
        """``prefix`` holds ``shared`` tokens; ``pads`` ``(rows,)``: padding of each tail."""
        self.prefix, self.pads, self.length, self.grouped = shared, pads, 0, grouped
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        if shared:
            keys, values = (array[:, :, :shared] for array in prefix.state[:2])
            self.keys, self.values = (mx.repeat(array, pads.shape[0], axis=0) for array in (keys, values))

    @property
    def offset(self) -> mx.array:
        """The position of the next token of each row, ``(rows,)``."""
        return self.prefix + self.length - self.pads

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        end = self.prefix + self.length
        new = keys.shape[2]
        if self.keys is None or self.values is None:
            self.keys, self.values = (
                mx.zeros((*keys.shape[:2], 0, keys.shape[3])),
                mx.zeros((*values.shape[:2], 0, values.shape[3])),
            )
        if end + new > self.keys.shape[2]:  # grow in steps: one copy for many tokens
            self.keys, self.values = (
                mx.concatenate([old[:, :, :end], mx.zeros((*like.shape[:2], max(new, 64), like.shape[3]), like.dtype)], axis=2)
                for old, like in ((self.keys, keys), (self.values, values))
            )
        self.keys[:, :, end : end + new] = keys
        self.values[:, :, end : end + new] = values
        self.length += new
        return self.keys[:, :, : end + new], self.values[:, :, : end + new]

    def make_mask(self, length: int, **_: Any) -> mx.array:
        """Bool ``(rows, 1, length, positions)``, with another axis of 1 where heads are grouped: no future, no padding."""
        end = self.prefix + self.length
        at = mx.arange(end + length)
        causal = at[None] <= mx.arange(end, end + length)[:, None]
        seen = (at[None] < self.prefix) | (at[None] >= self.prefix + self.pads[:, None])
        mask = (causal[None] & seen[:, None])[:, None]
        return mask[:, None] if self.grouped else mask

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """One batch of several that read tails behind the same prefix and have said nothing yet, their rows one after another."""
        if len(parts) == 1:
            return parts[0]
        length = max(part.length for part in parts)
        joined = copy.copy(parts[0])
        joined.length = length
        joined.pads = mx.concatenate([part.pads + (length - part.length) for part in parts])
        joined.keys, joined.values = (
            mx.concatenate([part._widened(array, length) for part, array in zip(parts, arrays, strict=True)])
            for arrays in ([part.keys for part in parts], [part.values for part in parts])
        )
        return joined

    def _widened(self, array: mx.array | None, length: int) -> mx.array:
        """Keys or values of the prefix and a tail of ``length``, what was added on its left."""
        assert array is not None
        end = self.prefix + self.length
        if length == self.length:
            return array[:, :, :end]
        rows, heads, _, width = array.shape
        gap = mx.zeros((rows, heads, length - self.length, width), array.dtype)
        return mx.concatenate([array[:, :, : self.prefix], gap, array[:, :, self.prefix : end]], axis=2)

    def only(self, rows: mx.array) -> Rows:
        """Another batch of ``rows`` of this one, which may be there more than once."""
        other = copy.copy(self)
        other.keep(rows)
        return other

    def keep(self, rows: mx.array) -> None:
        """Let all but ``rows`` go."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values, self.pads = self.keys[rows], self.values[rows], self.pads[rows]
