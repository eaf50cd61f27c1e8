"""Stop a run if its loss diverges or no longer improves, or at a checkpoint before the machine starts to swap."""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev

import mlx.core as mx

from mlxtune.core.text import size
from mlxtune.planning import machine

WINDOW = 8  # steps per median
DIVERGED = 1.5  # a run diverges if its median loss exceeds that of the first steps by this factor and by more than 1


@dataclass
class DivergenceDetector:
    """Compares the median loss over the last steps with the median over the first steps."""

    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, loss: float) -> str:
        """Add a step's loss and return the problem with it, or ``""``."""
        if not math.isfinite(loss):
            return "is NaN or infinite"
        if len(self.first) < WINDOW:
            self.first.append(loss)
            return ""
        self.last.append(loss)
        start, now = median(self.first), median(self.last)
        if len(self.last) == WINDOW and now > max(DIVERGED * start, start + 1):
            return f"diverges: its median over the last {WINDOW} steps is {now:.2f}, up from {start:.2f} at the start"
        return ""


@dataclass
class BestValidation:
    """The lowest validation loss so far."""

    patience: int  # 0 disables early stopping
    step: int = 0
    loss: float = math.inf
    since: int = 0  # validations since then
    batches: list[float] = field(default_factory=list)  # its sums by batch

    def add(self, step: int, loss: float, batches: Sequence[float] = ()) -> bool:
        """Add a validation loss and return whether it is the lowest."""
        if loss < self.loss:
            self.step, self.loss, self.since, self.batches = step, loss, 0, list(batches)
            return True
        self.since += 1
        return False

    @property
    def should_stop(self) -> bool:
        return 0 < self.patience <= self.since


MIN_ROWS, MIN_BATCHES = 30, 8  # of validation, for an earlier step to be preferred to the last one
_BEYOND_NOISE = 3.0  # standard errors: the 99th percentile of t with seven degrees of freedom


def lower_beyond_noise(earlier: Sequence[float], later: Sequence[float]) -> bool:
    """Return whether the losses of the same validation batches at an earlier step are lower than at a later one, beyond their noise."""
    if len(earlier) != len(later) or len(later) < MIN_BATCHES:
        return False
    changes = [after - before for before, after in zip(earlier, later, strict=True)]
    return fmean(changes) > _BEYOND_NOISE * stdev(changes) / math.sqrt(len(changes))


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
