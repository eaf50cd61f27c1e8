"""What many prompts begin with, computed once, and the batch of what each of them goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.models.head import Split, split
from mlxtune.models.template import common_prefix

_GROUPED = ("gemma2",)  # multiplies attention by itself, the query heads of one key head along an axis of their own
POSITIONS = 32_768  # keys and values of one batch: every row has its own copy of the prefix


@dataclass(frozen=True)
class Prefix:
    """``tokens`` many tokens that all prompts begin with, as each layer's keys and values. ``parts`` is the model."""

    parts: Split
    tokens: int
    caches: list[KVCache]
    grouped: bool

    def batches(self, lengths: Sequence[int], more: int, most: int, positions: int = 0) -> Iterator[list[int]]:
        """Indices of tails of ``lengths``, alike ones together; ``more`` positions are added to each, ``most`` rows go together.

        A batch has at most ``positions``, ``POSITIONS`` where that is 0, its copies of the prefix among them, but for a single row that has more.
        """
        by_length = sorted(range(len(lengths)), key=lambda at: lengths[at])
        batch: list[int] = []
        for at in by_length:
            if batch and (len(batch) == most or (len(batch) + 1) * (self.tokens + lengths[at] + more) > (positions or POSITIONS)):
                yield batch
                batch = []
            batch.append(at)
        if batch:
            yield batch

    def rows(self, tails: Sequence[Sequence[int]]) -> tuple[mx.array, list[Rows]]:
        """``tails`` padded on the left, ``(rows, width)``, and a cache for each layer in which they go on behind the prefix."""
        width = max(map(len, tails))
        pads = mx.array([width - len(tail) for tail in tails])
        tokens = mx.array([[0] * (width - len(tail)) + list(tail) for tail in tails])
        return tokens, [Rows(cache, self.tokens, pads, self.grouped) for cache in self.caches]


def share(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Prefix | None:
    """The prefix of ``prompts`` on ``model`` as it stands, at most all but one token of each.

    ``None`` for architectures whose cache is not plain keys and values (sliding windows, recurrent layers).
    """
    caches = make_prompt_cache(model)
    if not all(type(cache) is KVCache for cache in caches):
        return None
    parts = split(model)
    shared = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    if shared:
        mx.eval(parts.backbone(mx.array([list(prompts[0][:shared])]), caches))
    return Prefix(parts, shared, caches, type(model).__module__.rsplit(".", 1)[-1] in _GROUPED)


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

    def keep(self, rows: mx.array) -> None:
        """Let all but ``rows`` go."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values, self.pads = self.keys[rows], self.values[rows], self.pads[rows]
