"""Cache the keys and values of earlier prompts, so that a conversation is not recomputed at each turn.

Each entry belongs to one adapter, because another adapter computes different keys and values. mlx-lm's ``LRUPromptCache`` cannot
drop the entries of an unloaded adapter, and copies a whole cache to use its first tokens.

Entries may be quantized, so that more of them fit. Only stored entries are: mlx-lm's quantized cache cannot be batched.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from mlxtune.models.encoded import common_prefix

MIN_TOKENS = 16  # shorter matches are not worth copying
_GROUP_SIZES = (64, 32)  # numbers that share a scale, if the size of a head is a multiple of them


@dataclass(frozen=True, eq=False)
class _CacheEntry:
    owner: Hashable
    tokens: tuple[int, ...]
    caches: list[Any]

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)


class PromptCache:
    """The most recently used caches, up to ``limit`` bytes. Plain keys and values are stored with ``bits`` each, or as they are for 0."""

    def __init__(self, limit: int, bits: int = 0) -> None:
        self.limit, self.bits = limit, bits
        self._entries: list[_CacheEntry] = []  # least recently used first

    def put(self, owner: Hashable, tokens: Sequence[int], caches: list[Any]) -> None:
        """Store ``caches`` of ``tokens`` under adapter ``owner``, replacing entries for a prefix of them.

        The caches must not be written to afterwards. Does nothing if a longer entry is already stored.
        """
        if any(old.owner == owner and old.tokens[: len(tokens)] == tuple(tokens) for old in self._entries):
            return
        new = _CacheEntry(owner, tuple(tokens), [_quantized(cache, self.bits) for cache in caches] if self.bits else caches)
        self._entries = [old for old in self._entries if old.owner != owner or new.tokens[: len(old.tokens)] != old.tokens]
        self._entries.append(new)
        while self._entries and self.nbytes > self.limit:
            self._entries.pop(0)

    def lookup(self, owner: Hashable, tokens: Sequence[int]) -> tuple[list[Any], int] | None:
        """Return writable caches for the longest stored prefix of ``tokens`` and its length: at most all but one token."""
        best, longest = None, MIN_TOKENS - 1
        for entry in self._entries:
            shared = min(common_prefix([entry.tokens, tokens]), len(tokens) - 1) if entry.owner == owner else 0
            whole = shared == len(entry.tokens)
            if shared > longest and (whole or all(map(_is_plain, entry.caches))):
                best, longest = entry, shared
        if best is None:
            return None
        self._entries.remove(best)
        self._entries.append(best)
        return [_first_tokens(cache, longest) if _is_plain(cache) else copy.deepcopy(cache) for cache in best.caches], longest

    @property
    def nbytes(self) -> int:
        """The size of all entries in bytes."""
        return sum(entry.nbytes for entry in self._entries)

    def retain(self, owners: Collection[Hashable]) -> None:
        """Drop the entries of all but ``owners``."""
        self._entries = [entry for entry in self._entries if entry.owner in owners]


def _is_plain(cache: Any) -> bool:
    return type(cache) in (KVCache, QuantizedKVCache)


def _quantized(cache: Any, bits: int) -> Any:
    """Return ``cache`` quantized, or unchanged if it cannot be."""
    if type(cache) is not KVCache or cache.keys is None:
        return cache
    sizes = {cache.keys.shape[-1], cache.values.shape[-1]}
    group = next((group for group in _GROUP_SIZES if all(size % group == 0 for size in sizes)), 0)
    if not group:
        return cache
    trimmed = _first_tokens(cache, cache.offset).to_quantized(group_size=group, bits=bits)
    mx.eval(trimmed.keys, trimmed.values)
    return trimmed


def _first_tokens(cache: KVCache | QuantizedKVCache, count: int) -> KVCache:
    """Return a cache with the first ``count`` tokens of ``cache``, which stays unchanged because writing makes new arrays."""

    def first(stored: Any) -> mx.array:
        if isinstance(cache, QuantizedKVCache):
            packed, scales, biases = (part[..., :count, :] for part in stored)
            return mx.dequantize(packed, scales, biases, cache.group_size, cache.bits)
        array: mx.array = stored[..., :count, :]
        return array

    new = KVCache()
    new.keys, new.values, new.offset = first(cache.keys), first(cache.values), count
    return new
