"""Run parts of a batch in parallel on CPU streams.

MLX's CPU backend runs the element-wise work of one stream on one core. Half of a training step is element-wise, so a single
stream leaves cores idle. Splitting a batch over one stream per core, each with its share of BLAS threads, is about a third faster
on two cores and computes the same sums. On a GPU the pool has a single stream.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import mlx.core as mx

from mlxtune.models.cpu import blas

T = TypeVar("T")
R = TypeVar("R")

MAX_STREAMS = 4  # matrix multiplication is slower in smaller parts

_local = threading.local()


class StreamPool:
    """A fixed set of MLX streams owned by the thread that created it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._streams = [mx.new_stream(mx.cpu) for _ in range(size)] if size > 1 else []

    def __call__(self, index: int) -> contextlib.AbstractContextManager[object]:
        return mx.stream(self._streams[index]) if self._streams else contextlib.nullcontext()

    def share_cores(self, parts: int) -> None:
        """Divide the cores among ``parts`` streams; 1 gives all cores to one stream."""
        if self._streams:
            blas.set_threads(max(1, core_count() // parts))


def parallel_map(fn: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Yield ``(item, fn(item))`` with results evaluated, running up to ``pool.size`` calls concurrently."""
    pool = thread_pool()
    remaining = iter(items)
    try:
        while wave := list(islice(remaining, pool.size)):
            pool.share_cores(len(wave))
            results = []
            for index, item in enumerate(wave):
                with pool(index):
                    results.append((item, fn(item)))
            mx.eval([result for _, result in results])
            pool.share_cores(1)
            yield from results
    finally:
        pool.share_cores(1)


def thread_pool() -> StreamPool:
    """Return this thread's pool. Created once per thread, because MLX never frees streams."""
    if not hasattr(_local, "pool"):
        _local.pool = StreamPool(default_size())
    pool: StreamPool = _local.pool
    return pool


def default_size() -> int:
    """Return the number of streams for MLX's default device: one on a GPU, one per core on a CPU."""
    return 1 if mx.default_device().type == mx.DeviceType.gpu else min(MAX_STREAMS, core_count())


def core_count() -> int:
    """Return how many cores this process may use. ``OPENBLAS_NUM_THREADS`` overrides it when several processes share a machine."""
    if wanted := os.environ.get("OPENBLAS_NUM_THREADS"):
        return max(1, int(wanted))
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
