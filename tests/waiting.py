"""Waits for what another process or thread brings. They are patient: a passing test on a busy machine may need a while."""

import os
import signal
import time
from collections.abc import Callable

from mlxtune.runs.events import EventReader
from mlxtune.runs.locks import is_locked, lock_note
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState

PATIENCE = 600.0  # seconds


def wait_until(condition: Callable[[], object], run: Run | None = None, interval: float = 0.05) -> None:
    """Wait until ``condition`` holds, or fail with the state and the log of ``run``."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, run and (run.state(), run.log_tail(20))
        time.sleep(interval)


def finish(run: Run) -> Run:
    """Wait for the end of ``run``, or fail if it did not finish, and return it."""
    wait_until(lambda: run.state().ended, run)
    assert run.status() == "finished", (run.state().error, run.log_tail(20))
    return run


def wait_for_state(run: Run, condition: Callable[[RunState], bool]) -> None:
    """Wait until ``condition`` holds for the state of ``run``, or fail if the run ends before."""
    reader, state = EventReader(run.folder), RunState()

    def reached() -> bool:
        nonlocal state
        state = state.apply(reader.read())
        done = condition(state)
        assert done or not state.ended, (state, run.log_tail(20))
        return done

    wait_until(reached, run)


def kill_worker(run: Run) -> None:
    """Kill the worker of ``run`` as soon as it holds the run's lock, unless the run ends before, and wait until the lock is free.

    Its PID is not in the run's state while it starts: a PID of 0 would kill the process group of the tests.
    """

    def kill() -> bool:
        note = lock_note(run.lock)
        if not is_locked(run.lock):
            return run.state().ended
        try:
            return note.isdigit() and os.kill(int(note), signal.SIGKILL) is None
        except ProcessLookupError:  # the PID of the worker before
            return False

    wait_until(kill, run)
    wait_until(lambda: not is_locked(run.lock), run)
