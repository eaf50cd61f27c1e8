"""Pause a run while this machine is on battery power, if ``training.wait_for = "power"``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from mlxtune.planning import machine

if TYPE_CHECKING:  # imports mlx
    from mlxtune.training.loop import RunListener

INTERVAL = 5.0  # seconds between two checks while the run continues
POLL = 1.0  # seconds between two checks while it waits; a stop request is noticed as late


class PowerWait:
    """Called before each step. It returns once the machine is connected to power, or the user asks the run to stop."""

    def __init__(self, wait_for: Literal["", "power"], listener: RunListener) -> None:
        self._wait_for, self._listener = wait_for, listener
        self._next_check = 0.0

    def __call__(self) -> None:
        if self._wait_for != "power" or time.monotonic() < self._next_check:
            return
        if machine.power().on_battery:
            self._listener.emit("run.waiting", reason="power")
            while machine.power().on_battery and not self._listener.stopping:
                time.sleep(POLL)
            self._listener.emit("run.continued")
        self._next_check = time.monotonic() + INTERVAL
