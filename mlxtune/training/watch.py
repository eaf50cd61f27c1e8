"""When to stop of one's own accord: a loss that is no number, one that runs away, validations that no longer improve."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

WINDOW = 8  # steps that are looked at together
RUNAWAY = 1.5  # times the loss of the first steps, and at least 1 above it


@dataclass
class Divergence:
    """Compares the last steps' median loss with the first steps'."""

    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, loss: float) -> str:
        """Take a step's loss; what is wrong with it, or nothing."""
        if not math.isfinite(loss):
            return "is not a number"
        if len(self.first) < WINDOW:
            self.first.append(loss)
            return ""
        self.last.append(loss)
        start, now = median(self.first), median(self.last)
        if len(self.last) == WINDOW and now > max(RUNAWAY * start, start + 1):
            return f"runs away: {now:.2f} over the last {WINDOW} steps, from {start:.2f} at the start"
        return ""


@dataclass
class Best:
    """The lowest validation after a step so far, and how many came since; ``patience`` = 0 never ends a run."""

    patience: int
    step: int = 0
    loss: float = math.inf
    since: int = 0

    def add(self, step: int, loss: float) -> bool:
        """Take a validation; whether it is the best."""
        if loss < self.loss:
            self.step, self.loss, self.since = step, loss, 0
            return True
        self.since += 1
        return False

    @property
    def stale(self) -> bool:
        """Whether the run should end here."""
        return 0 < self.patience <= self.since
