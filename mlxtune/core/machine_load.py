"""Share this machine: its cores with other programs, which make every run slow, and memory among this process's threads."""

import ctypes
import os
from contextlib import suppress

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # M_… in glibc's malloc.h
_BUSY = 2.0  # runnable threads per core; a single mlxtune run causes at most 1.5


def busy_load() -> float:
    """Return the load average of the last minute if this machine is busy, otherwise 0.

    ``OPENBLAS_NUM_THREADS`` says that several processes share the machine on purpose, so nothing counts as busy then.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS"):
        return 0.0
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 0.0
    return load if load > _BUSY * (os.cpu_count() or 1) else 0.0


def fair_threads(load: float) -> int:
    """Return this process's fair share of the cores, in threads, if it competes with ``load`` other threads."""
    cores = os.cpu_count() or 1
    return max(1, int(cores * cores / (load + cores)))


def share_arena() -> None:
    """Let all threads of this process allocate from the same memory. Call this before the first thread starts.

    By default, glibc keeps what a thread frees for that thread. Threads of a pool, which take turns, then each keep the memory of
    the largest job that they ever ran. Python mostly runs one thread at a time, so they rarely wait for each other. Large blocks
    always get pages of their own, which go back to the system. Other C libraries lack these settings, and nothing happens.
    """
    with suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_ARENA_MAX, 1)
        set_option(_MMAP_THRESHOLD, 128 * 1024)


def release_memory() -> None:
    """Return all free pages to the system. By itself, glibc returns only those at the end of its heap, and takes new ones."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
