"""A run's status, based on its events, its lock, and its age."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from mlxtune.runs.locks import is_locked
from mlxtune.runs.state import RunState

RunStatus = Literal["starting", "running", "waiting", "cooling", "quiet", "finished", "stopped", "failed", "crashed"]

LOCK_FILE = "run.lock"
QUIET_AFTER = 40.0  # seconds without any event, including heartbeats, while the lock is held
STARTING_FOR = 60.0  # seconds that a new or restarting run may be without a lock
ACTIVE: frozenset[RunStatus] = frozenset({"running", "waiting", "cooling", "quiet"})  # has a process that can be asked to stop
ALIVE: frozenset[RunStatus] = ACTIVE | {"starting"}


def run_status(folder: Path, state: RunState, now: float | None = None) -> RunStatus:
    """Return the status of the run in ``folder``, whose events fold to ``state``.

    ``crashed`` means that no process holds the lock and there is no terminal event. ``quiet`` means that a process holds the lock
    but has not written any event for ``QUIET_AFTER`` seconds.
    """
    now = time.time() if now is None else now
    if is_locked(folder / LOCK_FILE) and not state.ended:  # a worker that wrote its terminal event is about to release it
        if state.updated and now - state.updated > QUIET_AFTER:
            return "quiet"
        if state.waiting:
            return "cooling" if state.waiting == "heat" else "waiting"
        return "running" if state.pid else "starting"
    match state.phase:
        case "finished" | "stopped" | "failed":
            return state.phase
        case "new" if now - folder.stat().st_mtime < STARTING_FOR:
            return "starting"
        case "restarting" if now - state.updated < STARTING_FOR:
            return "starting"
    return "crashed"
