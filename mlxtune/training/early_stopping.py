"""Stop a run if its loss diverges or its validation loss no longer improves."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

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
    """The lowest validation loss so far and the number of validations since then. ``patience`` = 0 disables early stopping."""

    patience: int
    step: int = 0
    loss: float = math.inf
    since: int = 0

    def add(self, step: int, loss: float) -> bool:
        """Add a validation loss and return whether it is the lowest."""
        if loss < self.loss:
            self.step, self.loss, self.since = step, loss, 0
            return True
        self.since += 1
        return False

    @property
    def should_stop(self) -> bool:
        return 0 < self.patience <= self.since
