"""Side by side on a CPU: each part of a batch on a stream, and so on a core, of its own.

MLX's CPU backend runs a stream's element-wise work on one core; only its matrix products use more. Half of a training step is
element-wise, so with one stream half of the cores idle for half of the time. Parts on streams of their own, each with its share
of the BLAS's threads, keep all of them busy: the same sums, about a third faster on two cores. Prompts are read that way too.
A GPU has one lane: its one queue.
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import cache

import mlx.core as mx

from mlxtune.models import blas

MOST = 4  # lanes: smaller parts multiply slower


class Lanes:
    """As many streams as a batch is dealt out to. Belongs to the thread that made it, as MLX's streams do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._streams = [mx.new_stream(mx.cpu) for _ in range(count)] if count > 1 else []

    def __call__(self, lane: int) -> contextlib.AbstractContextManager[object]:
        """Inside, work goes to ``lane``."""
        return mx.stream(self._streams[lane]) if self._streams else contextlib.nullcontext()

    def share(self, parts: int) -> None:
        """Divide the cores among ``parts`` lanes that are about to work; 1 gives all to one."""
        if self._streams:
            blas.threads(max(1, cores() // parts))


@cache
def _of(thread: int) -> Lanes:
    return Lanes(suitable())


def mine() -> Lanes:
    """The calling thread's lanes, as many as suit: streams are never given back, so that a thread makes them once."""
    return _of(threading.get_ident())


def suitable() -> int:
    """How many lanes suit MLX's device: one on a GPU, a core each on a CPU."""
    return 1 if mx.default_device().type == mx.DeviceType.gpu else min(MOST, cores())


def cores() -> int:
    """How many cores this process may use; where several share a machine, the BLAS's own variable says so."""
    if wanted := os.environ.get("OPENBLAS_NUM_THREADS"):
        return max(1, int(wanted))
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
