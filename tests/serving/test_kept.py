"""Keys and values kept for later turns."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache

from mlxtune.serving.kept import Kept


def caches(tokens, kind=KVCache):
    """A cache whose keys are the tokens."""
    cache = kind() if kind is KVCache else kind(max_size=64)
    array = mx.array([float(token) for token in tokens]).reshape(1, 1, -1, 1)
    cache.update_and_fetch(array, array)
    return [cache]


def held(found) -> list[float]:
    (cache,), count = found
    return cache.keys[0, 0, : cache.offset, 0].tolist()[:count]


A, B = list(range(40)), [*range(25), 7, 7, 7]


def test_what_two_questions_begin_with_is_reused_and_the_kept_stays_as_it_was() -> None:
    kept = Kept(10**6)
    kept.put("adapter", A, caches(A))
    found = kept.take("adapter", B)
    assert found
    assert found[1] == 25
    assert held(found) == B[:25]
    found[0][0].update_and_fetch(mx.ones((1, 1, 3, 1)) * 7, mx.ones((1, 1, 3, 1)) * 7)
    again = kept.take("adapter", [*A, 1])
    assert again
    assert held(again) == A
    assert kept.take("adapter", A)[1] == 39  # the last token is still to be computed


def test_another_adapter_or_a_short_beginning_reuses_nothing() -> None:
    kept = Kept(10**6)
    kept.put("adapter", A, caches(A))
    assert kept.take(None, A) is None
    assert kept.take("adapter", [*range(10), *[90] * 30]) is None
    kept.only({None})
    assert kept.take("adapter", A) is None


def test_a_longer_one_replaces_its_beginning_and_the_oldest_goes_first() -> None:
    kept = Kept(10**6)
    kept.put(None, A[:20], caches(A[:20]))
    kept.put(None, A, caches(A))
    size = kept.nbytes
    kept.put(None, A[:30], caches(A[:30]))
    assert kept.nbytes == size
    small = Kept(size * 2)
    for first in range(4):
        small.put(None, [first, *A[1:]], caches(A))
    assert small.nbytes <= size * 2
    assert small.take(None, [0, *A[1:]]) is None
    assert small.take(None, [3, *A[1:]])


def test_a_cache_that_cannot_go_back_is_reused_only_whole() -> None:
    kept = Kept(10**6)
    kept.put(None, A, caches(A, RotatingKVCache))
    assert kept.take(None, B) is None
    assert kept.take(None, [*A, 1, 2])[1] == 40
