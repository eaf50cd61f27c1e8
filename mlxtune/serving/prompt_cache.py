"""Cache the keys and values of earlier prompts, so that a conversation is not recomputed at each turn.

Each entry belongs to one adapter, because another adapter computes different keys and values. mlx-lm's ``LRUPromptCache`` cannot
drop the entries of an unloaded adapter, and copies a whole cache to use its first tokens.
"""

import copy
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import KVCache

from mlxtune.models.encoded import common_prefix

MIN_TOKENS = 16  # shorter matches are not worth copying
MAX_ENTRIES = 128  # each lookup compares all of them


@dataclass(frozen=True, eq=False)
class _CacheEntry:
    owner: Hashable
    tokens: tuple[int, ...]
    caches: list[Any]


class PromptCache:
    """The most recently used caches: at most ``MAX_ENTRIES``, and up to ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: list[_CacheEntry] = []  # least recently used first

    def put(self, owner: Hashable, tokens: Sequence[int], caches: list[Any]) -> None:
        """Store ``caches`` of ``tokens`` under adapter ``owner``, replacing entries for a prefix of them.

        The caches must not be modified afterwards. Does nothing if a longer entry is already stored.
        """
        new = _CacheEntry(owner, tuple(tokens), caches)
        if any(old.owner == owner and old.tokens[: len(new.tokens)] == new.tokens for old in self._entries):
            return
        self._entries = [old for old in self._entries if old.owner != owner or new.tokens[: len(old.tokens)] != old.tokens]
        self._entries.append(new)
        while len(self._entries) > MAX_ENTRIES or (self._entries and self.nbytes > self.limit):
            self._entries.pop(0)

    def lookup(self, owner: Hashable, tokens: Sequence[int]) -> tuple[list[Any], int] | None:
        """Return writable caches for the longest stored prefix of ``tokens`` and its length: at most all but one token."""
        best, longest = None, MIN_TOKENS - 1
        for entry in self._entries:
            shared = min(common_prefix([entry.tokens, tokens]), len(tokens) - 1) if entry.owner == owner else 0
            whole = shared == len(entry.tokens)
            if shared > longest and (whole or all(type(cache) is KVCache for cache in entry.caches)):
                best, longest = entry, shared
        if best is None:
            return None
        self._entries.remove(best)
        self._entries.append(best)
        if longest == len(best.tokens):
            return copy.deepcopy(best.caches), longest
        return [_first_tokens(cache, longest) for cache in best.caches], longest

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for entry in self._entries for cache in entry.caches)

    def retain(self, owners: Collection[Hashable]) -> None:
        """Drop the entries of all but ``owners``."""
        self._entries = [entry for entry in self._entries if entry.owner in owners]


def _first_tokens(cache: KVCache, count: int) -> KVCache:
    """Return a cache with the first ``count`` tokens of ``cache``, which stays unchanged because writing makes new arrays."""
    new = KVCache()
    new.keys, new.values, new.offset = cache.keys[..., :count, :], cache.values[..., :count, :], count
    return new
