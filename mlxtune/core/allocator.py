"""How the C library hands out memory to threads."""

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX in glibc's malloc.h


def share_arena() -> None:
    """Let all threads of this process allocate from the same memory. Call this before the first thread starts.

    By default, glibc keeps what a thread frees for that thread. Threads of a pool, which take turns, then each keep the memory of
    the largest job that they ever ran. Python mostly runs one thread at a time, so they rarely wait for each other. Other
    C libraries do not have this setting, and nothing happens.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    set_option(_ARENA_MAX, 1)
