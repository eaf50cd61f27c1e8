"""Detect when other programs compete for this machine's cores, which makes every run slow."""

import os

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
