"""Follow a run until it ends. Ctrl-C detaches; the run continues."""

from __future__ import annotations

import time
from collections.abc import Callable
from json import dumps

from mlxtune.cli.output import Cell, info, print_error, progress_bar
from mlxtune.core.errors import Interrupted, MlxtuneError
from mlxtune.core.text import duration, one_line, plural
from mlxtune.runs.events import Event
from mlxtune.runs.log_lines import describe
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.runs.watch import require_finished, watch


def follow(run: Run, *, json: bool = False, on_state: Callable[[RunState], None] | None = None) -> int:
    """Print all events of ``run`` and return the run's exit code. Raise ``MachineError`` if its worker has died.

    With ``json``, each event is a line on stdout. With ``on_state``, the caller shows the progress and only warnings are printed.
    """
    state = RunState()
    try:
        for events, state in watch(run):
            for event in events:
                line = describe(event)
                if json:
                    print(dumps(event), flush=True)
                elif line and (on_state is None or event["type"] in ("warning", "run.restarting")):
                    clock = time.strftime("%H:%M:%S", time.localtime(line.t))
                    info((f"{clock}  ", "faint"), (line.glyph, f"bold {line.style}"), "  ", line.text, *_remaining(event, state))
            if on_state:
                on_state(state)
    except KeyboardInterrupt:
        info("")
        attach, stop = (f"mlxtune runs attach {run.id}", "primary"), (f"mlxtune runs stop {run.id}", "primary")
        info(("■ ", "muted"), f"Detached from {run.id}; it continues.   ", attach, "  ", stop)
        return 0
    try:
        require_finished(state)
    except Interrupted as error:
        return error.exit_code
    except MlxtuneError as error:
        print_error(error)
        return error.exit_code
    return 0


def follow_answers(run: Run) -> int:
    """Follow a run whose model answers rows or questions, show how many were answered, and return its exit code."""
    with progress_bar("loading the model") as update:

        def draw(state: RunState) -> None:
            if state.current_arm:
                arm, kind, done, total = state.current_arm
                update(f"{one_line(arm, 40)} answers {plural(total, kind)}", done / max(1, total))

        return follow(run, on_state=draw)


def _remaining(event: Event, state: RunState) -> list[Cell]:
    """Return a step's progress, with the remaining time if it is the latest step."""
    if event["type"] != "step":
        return []
    newest = event["step"] == state.step and not state.ended
    left = f", {duration(state.remaining_seconds)} left" if newest and state.remaining_seconds else ""
    return [(f"   {event['step']:,} of {state.total:,}{left}", "faint")]
