"""Stop a run at a checkpoint before the machine starts to swap."""

from __future__ import annotations

import time

import mlx.core as mx

from mlxtune.core.text import size
from mlxtune.planning import machine

INTERVAL = 5.0  # seconds between checks of the machine; MLX's own figures cost nothing and are checked every step
MIN_FREE = 0.03  # fraction of memory; the machine starts to swap when less is free
MAX_SWAPPED = 2 * 2**30  # bytes swapped out since the run started

ADVICE = (
    "Set training.grad_checkpoint = true, lower training.batch_tokens or training.batch_size, or close other apps; then resume."
)


class MemoryGuard:
    """Compares this process's memory use with ``limit`` bytes, and monitors the machine's memory pressure and swap.

    Memory use includes the free buffers that MLX keeps. They are released first, and only a problem that remains is reported.
    ``over_limit`` says whether the last problem was this process's own use, as opposed to that of other apps.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.over_limit = False
        self._start = machine.pressure()
        self._checked = time.monotonic()
        self._released = False  # whether the last check released free buffers because of a problem

    def check(self) -> str:
        """Return the problem and what to do about it, or ``""``."""
        if mx.get_active_memory() + mx.get_cache_memory() > self.limit:
            mx.clear_cache()
        problem = self._usage_problem(mx.get_active_memory())
        if problem or time.monotonic() - self._checked < INTERVAL:
            return problem
        self._checked = time.monotonic()
        problem = self._usage_problem(machine.footprint()) or self._pressure_problem()
        release = bool(problem and mx.get_cache_memory()) and not self._released
        if release:
            mx.clear_cache()
        self._released = release
        return "" if release else problem

    def _usage_problem(self, used: int) -> str:
        self.over_limit = used > self.limit
        if not self.over_limit:
            return ""
        return f"The run uses {size(used)} of memory, but this machine's limit is {size(self.limit)}. {ADVICE}"

    def _pressure_problem(self) -> str:
        now = machine.pressure()
        if now.critical or now.free < MIN_FREE * now.total:
            return f"The machine is running out of memory: only {size(now.free)} of {size(now.total)} is free. {ADVICE}"
        if now.swapped - self._start.swapped > MAX_SWAPPED:
            return f"The machine swapped out {size(now.swapped - self._start.swapped)} since the run started. {ADVICE}"
        return ""
