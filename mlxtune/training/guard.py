"""Stops a run at a checkpoint before it stalls the machine."""

from __future__ import annotations

import time

import mlx.core as mx

from mlxtune.core.text import size
from mlxtune.planning import machine

EVERY = 5.0  # seconds between looks at the machine; MLX's own figures cost nothing and are looked at each step
SCARCE = 0.03  # of the memory: less than that free, and the machine begins to swap
SWAPPED = 2 * 2**30  # bytes swapped out since the start of the run

ADVICE = (
    "Set training.grad_checkpoint = true, lower training.batch_tokens or training.batch_size, or close other apps; then resume."
)


class MemoryGuard:
    """Watches MLX's memory against ``limit`` bytes, and the machine's pressure and swap."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._start = machine.pressure()
        self._looked = time.monotonic()

    def check(self) -> str:
        """What is wrong, with advice; nothing while all is well."""
        active = mx.get_active_memory()
        if active > self.limit:
            return f"Memory in use, {size(active)}, passed the {size(self.limit)} that this machine can give. {ADVICE}"
        if time.monotonic() - self._looked < EVERY:
            return ""
        self._looked = time.monotonic()
        now = machine.pressure()
        if now.critical or now.free < SCARCE * now.total:
            return f"The machine is running out of memory: {size(now.free)} of {size(now.total)} free. {ADVICE}"
        if now.swapped - self._start.swapped > SWAPPED:
            return f"The machine has swapped out {size(now.swapped - self._start.swapped)} since the run began. {ADVICE}"
        return ""
