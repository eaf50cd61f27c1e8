"""Pause a run while this machine is on battery power or too hot, as ``training.wait_for`` specifies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlxtune.planning import machine
from mlxtune.recipe.schema import WaitFor
from mlxtune.runs.events import WaitReason

if TYPE_CHECKING:  # imports mlx
    from mlxtune.training.loop import RunListener

INTERVAL = 5.0  # seconds between two checks while the run continues
POLL = 1.0  # seconds between two checks while it waits, and until a stop request is noticed


class PowerWait:
    """Called before each step. It returns once the machine is connected to power and cool, or the user asks the run to stop.

    A run pauses under heavy thermal pressure and continues once it is nominal, so that it does not alternate at the limit.
    ``waited`` is the time that it has paused, in seconds.
    """

    def __init__(self, wait_for: WaitFor, listener: RunListener) -> None:
        self._listener = listener
        self._for_power, self._for_cooling = wait_for in ("power", "both"), wait_for in ("cool", "both")
        self._next_check = 0.0
        self.waited = 0.0

    def __call__(self) -> None:
        if not (self._for_power or self._for_cooling) or time.monotonic() < self._next_check:
            return
        start, reported = time.monotonic(), None
        while (reason := self._reason(reported)) and not self._listener.stopping:
            if reason != reported:
                self._listener.emit("run.waiting", reason=reason)
                reported = reason
            time.sleep(POLL)
        if reported:
            self._listener.emit("run.continued")
            self.waited += time.monotonic() - start
        self._next_check = time.monotonic() + INTERVAL

    def _reason(self, before: WaitReason | None) -> WaitReason | None:
        """Return why the run should wait. ``before`` is the reason for which it has been waiting so far."""
        state = machine.power()
        if self._for_power and state.on_battery:
            return "power"
        hot = state.thermal == "heavy" or (before == "heat" and state.thermal != "nominal")
        return "heat" if self._for_cooling and hot else None
