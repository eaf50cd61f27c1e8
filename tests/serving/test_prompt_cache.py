import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache

from mlxtune.serving import prompt_cache
from mlxtune.serving.prompt_cache import PromptCache


def caches(tokens, kind=KVCache):
    """Return a cache whose keys are the tokens."""
    cache = kind() if kind is KVCache else kind(max_size=64)
    array = mx.array([float(token) for token in tokens]).reshape(1, 1, -1, 1)
    cache.update_and_fetch(array, array)
    return [cache]


def keys_of(match) -> list[float]:
    (cache,), count = match
    return cache.keys[0, 0, : cache.offset, 0].tolist()[:count]


A, B = list(range(40)), [*range(25), 7, 7, 7]


def test_a_common_prefix_is_reused_and_the_entry_is_unchanged() -> None:
    cache = PromptCache(10**6)
    cache.put("adapter", A, caches(A))
    match = cache.lookup("adapter", B)
    assert match
    assert match[1] == 25
    assert keys_of(match) == B[:25]
    match[0][0].update_and_fetch(mx.ones((1, 1, 3, 1)) * 7, mx.ones((1, 1, 3, 1)) * 7)
    second = cache.lookup("adapter", [*A, 1])
    assert second
    assert keys_of(second) == A
    assert cache.lookup("adapter", A)[1] == 39  # the last token must be computed


def test_another_adapter_or_a_short_prefix_reuses_nothing() -> None:
    cache = PromptCache(10**6)
    cache.put("adapter", A, caches(A))
    assert cache.lookup(None, A) is None
    assert cache.lookup("adapter", [*range(10), *[90] * 30]) is None
    cache.retain({None})
    assert cache.lookup("adapter", A) is None


def test_a_longer_entry_replaces_its_prefix_and_the_oldest_is_evicted() -> None:
    cache = PromptCache(10**6)
    cache.put(None, A[:20], caches(A[:20]))
    cache.put(None, A, caches(A))
    size = cache.nbytes
    cache.put(None, A[:30], caches(A[:30]))
    assert cache.nbytes == size
    small = PromptCache(size * 2)
    for first in range(4):
        small.put(None, [first, *A[1:]], caches(A))
    assert small.nbytes <= size * 2
    assert small.lookup(None, [0, *A[1:]]) is None
    assert small.lookup(None, [3, *A[1:]])


def test_a_cache_that_cannot_be_trimmed_is_reused_only_whole() -> None:
    cache = PromptCache(10**6)
    cache.put(None, A, caches(A, RotatingKVCache))
    assert cache.lookup(None, B) is None
    assert cache.lookup(None, [*A, 1, 2])[1] == 40


def test_small_entries_do_not_accumulate() -> None:
    cache = PromptCache(10**9)
    prompts = [[first, *A[1:]] for first in range(prompt_cache.MAX_ENTRIES + 50)]
    for prompt in prompts:
        cache.put(None, prompt, caches(prompt))
    assert [cache.lookup(None, [*prompt, 1]) is not None for prompt in (prompts[49], prompts[50])] == [False, True]
    assert cache.nbytes == prompt_cache.MAX_ENTRIES * sum(one.nbytes for one in caches(A))
