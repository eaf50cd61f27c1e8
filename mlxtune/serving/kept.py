"""Keys and values of what was computed before, so that a conversation is not read again at each turn.

They belong to an adapter: under another one the same tokens have other keys and values, so after a swap nothing is reused, and after
a swap back what is still there is.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import KVCache

from mlxtune.models.template import common_prefix

LEAST = 16  # tokens: less than that is not worth a copy


@dataclass(frozen=True, eq=False)
class _Entry:
    owner: Hashable
    tokens: tuple[int, ...]
    caches: list[Any]

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)


class Kept:
    """The newest caches, at most ``limit`` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: list[_Entry] = []  # the one used last is last

    def put(self, owner: Hashable, tokens: Sequence[int], caches: list[Any]) -> None:
        """Keep ``caches``, which hold ``tokens`` under the adapter ``owner``, in place of those that hold only the beginning of them.

        They must not be written to any more. Nothing is kept that is known already.
        """
        new = _Entry(owner, tuple(tokens), caches)
        if any(old.owner == owner and old.tokens[: len(new.tokens)] == new.tokens for old in self._entries):
            return
        self._entries = [old for old in self._entries if old.owner != owner or new.tokens[: len(old.tokens)] != old.tokens]
        self._entries.append(new)
        while self._entries and self.nbytes > self.limit:
            self._entries.pop(0)

    def take(self, owner: Hashable, tokens: Sequence[int]) -> tuple[list[Any], int] | None:
        """Caches of how ``tokens`` begin, to go on with, and how many tokens they hold: at most all but one. ``None`` for too few."""
        best, most = None, LEAST - 1
        for entry in self._entries:
            shared = min(common_prefix([entry.tokens, tokens]), len(tokens) - 1) if entry.owner == owner else 0
            whole = shared == len(entry.tokens)
            if shared > most and (whole or all(type(cache) is KVCache for cache in entry.caches)):
                best, most = entry, shared
        if best is None:
            return None
        self._entries.remove(best)
        self._entries.append(best)
        if most == len(best.tokens):
            return copy.deepcopy(best.caches), most
        return [_begin(cache, most) for cache in best.caches], most

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(entry.nbytes for entry in self._entries)

    def only(self, owners: Collection[Hashable]) -> None:
        """Let go of what belongs to none of ``owners``."""
        self._entries = [entry for entry in self._entries if entry.owner in owners]


def _begin(cache: KVCache, count: int) -> KVCache:
    """A cache of the first ``count`` tokens of ``cache``, which stays as it is: arrays are values, a write makes a new one."""
    new = KVCache()
    new.keys, new.values, new.offset = cache.keys[..., :count, :], cache.values[..., :count, :], count
    return new
