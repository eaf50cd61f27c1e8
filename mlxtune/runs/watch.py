"""Watch a run until it ends."""

import time
from collections.abc import Iterator

from mlxtune.core.errors import Interrupted, MachineError, MlxtuneError
from mlxtune.core.gpu_errors import gpu_error
from mlxtune.core.text import one_line
from mlxtune.runs.events import Event, EventReader
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState

POLL = 0.2  # seconds


def watch(run: Run) -> Iterator[tuple[list[Event], RunState]]:
    """Yield the new events of ``run`` and the state after them, until it ends. Raise ``MachineError`` if its worker has died."""
    reader, state = EventReader(run.folder), RunState()
    while not state.ended:
        events = reader.read()
        if (
            not events and run.status(state) == "crashed" and not (events := reader.read())
        ):  # unless it has ended since the first read
            raise _crash_error(run, state)
        state = state.apply(events)
        yield events, state
        if not state.ended:
            time.sleep(POLL)


def require_finished(state: RunState) -> None:
    """Raise the error of a failed run, or ``Interrupted`` if it was stopped."""
    if state.phase == "failed":
        error = MlxtuneError(state.error, hint=state.hint)
        error.exit_code = state.code
        raise error
    if state.phase == "stopped":
        raise Interrupted(state.step, state.error)


def _crash_error(run: Run, state: RunState) -> MachineError:
    last_line = one_line(" ".join(run.log_tail(1)), 160)
    message = f"{run.id} crashed at step {state.step:,}." if run.kind == "train" else f"{run.id} crashed."
    if failure := gpu_error(" ".join(run.log_tail(5))):
        message += f" {failure.message}"
    hint = "Nothing had been saved yet."
    if run.kind == "search":
        hint = f"Every result is saved; to continue, run: mlxtune runs resume {run.id}"
    elif state.checkpoints:
        hint = f"Checkpoint {state.checkpoints[-1]} is complete; to resume from it, run: mlxtune runs resume {run.id}"
    return MachineError(f"{message}{f' Its log ends with: {last_line}' if last_line else ''}", hint=hint)
