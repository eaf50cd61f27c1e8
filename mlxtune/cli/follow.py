"""Follow a run until it ends. Ctrl-C detaches; the run continues."""

from __future__ import annotations

import time
from collections.abc import Callable
from json import dumps

from mlxtune.cli.output import Cell, info, print_error
from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.gpu_errors import gpu_error
from mlxtune.core.text import duration, one_line
from mlxtune.runs.events import Event, EventReader
from mlxtune.runs.log_lines import describe
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState, fold

POLL = 0.2  # seconds


def follow(run: Run, *, json: bool = False, on_state: Callable[[RunState], None] | None = None) -> int:
    """Print all events of ``run`` and return the run's exit code.

    With ``json``, each event is a line on stdout. With ``on_state``, the caller shows the progress and only warnings are printed.
    """
    reader, state = EventReader(run.folder), RunState()
    try:
        while True:
            events = reader.read()
            state = fold(events, state)
            for event in events:
                line = describe(event)
                if json:
                    print(dumps(event), flush=True)
                elif line and (on_state is None or event["type"] in ("warning", "run.restarting")):
                    clock = time.strftime("%H:%M:%S", time.localtime(line.t))
                    info((f"{clock}  ", "faint"), (line.glyph, f"bold {line.style}"), "  ", line.text, *_remaining(event, state))
            if on_state:
                on_state(state)
            if state.ended:
                return _exit_code(state)
            if not events and run.status(state) == "crashed":
                raise _crash_error(run, state)
            time.sleep(POLL)
    except KeyboardInterrupt:
        info("")
        attach, stop = (f"mlxtune runs attach {run.id}", "primary"), (f"mlxtune runs stop {run.id}", "primary")
        info(("■ ", "muted"), f"Detached from {run.id}; it continues.   ", attach, "  ", stop)
        return 0


def _remaining(event: Event, state: RunState) -> list[Cell]:
    """Return a step's progress, with the remaining time if it is the latest step."""
    if event["type"] != "step":
        return []
    newest = event["step"] == state.step and not state.ended
    left = f", {duration(state.remaining_seconds)} left" if newest and state.remaining_seconds else ""
    return [(f"   {event['step']:,} of {state.total:,}{left}", "faint")]


def _exit_code(state: RunState) -> int:
    if state.phase == "failed":
        print_error(MlxtuneError(state.error, hint=state.hint))
        return state.code
    return 3 if state.phase == "stopped" else 0


def _crash_error(run: Run, state: RunState) -> MachineError:
    last_line = one_line(" ".join(run.log_tail(1)), 160)
    message = f"{run.id} crashed at step {state.step:,}." if run.kind == "train" else f"{run.id} crashed."
    if failure := gpu_error(" ".join(run.log_tail(5))):
        message += f" {failure.message}"
    hint = "Nothing had been saved yet."
    if state.checkpoints:
        hint = f"Checkpoint {state.checkpoints[-1]} is complete. To resume from it, run: mlxtune runs resume {run.id}"
    return MachineError(f"{message}{f' Its log ends with: {last_line}' if last_line else ''}", hint=hint)
