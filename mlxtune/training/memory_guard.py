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
    """Compares MLX's memory use with ``limit`` bytes, and monitors the machine's memory pressure and swap."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._start = machine.pressure()
        self._checked = time.monotonic()

    def check(self) -> str:
        """Return the problem and what to do about it, or ``""``."""
        active = mx.get_active_memory()
        if active > self.limit:
            return f"The run uses {size(active)} of memory, but this machine's limit is {size(self.limit)}. {ADVICE}"
        if time.monotonic() - self._checked < INTERVAL:
            return ""
        self._checked = time.monotonic()
        now = machine.pressure()
        if now.critical or now.free < MIN_FREE * now.total:
            return f"The machine is running out of memory: only {size(now.free)} of {size(now.total)} is free. {ADVICE}"
        if now.swapped - self._start.swapped > MAX_SWAPPED:
            return f"The machine swapped out {size(now.swapped - self._start.swapped)} since the run started. {ADVICE}"
        return ""
