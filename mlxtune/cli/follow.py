"""Follow a run's events until it ends. Ctrl-C lets go of it; the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from json import dumps

from mlxtune.cli.screen import complain, say
from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.text import duration, one_line
from mlxtune.runs import events
from mlxtune.runs.narrate import narrate
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState, fold

POLL = 0.2  # seconds


def follow(run: Run, *, json: bool = False, on_state: Callable[[RunState], None] | None = None) -> int:
    """Tell what happens in ``run``, from its first event to its last, and return the exit code its end means.

    With ``json`` every event is a line on stdout; with ``on_state`` the caller draws, and only warnings are told.
    """
    tail, state = events.tail(run.folder), RunState()
    try:
        while True:
            new = tail.read()
            state = fold(new, state)
            for event in new:
                told = narrate(event)
                if json:
                    print(dumps(event), flush=True)
                elif told and (on_state is None or event["type"] == "warning"):
                    clock = time.strftime("%H:%M:%S", time.localtime(told.t))
                    say((f"{clock}  ", "faint"), (told.mark, f"bold {told.token}"), "  ", told.text, *_left(event, state))
            if on_state:
                on_state(state)
            if state.ended:
                return _end(state)
            if not new and run.status(state) == "crashed":
                raise _crash(run, state)
            time.sleep(POLL)
    except KeyboardInterrupt:
        say("")
        say(
            ("■ ", "muted"),
            f"Let go of {run.id}; it goes on.   ",
            (f"mlxtune runs attach {run.id}", "primary"),
            "  ",
            (f"mlxtune runs stop {run.id}", "primary"),
        )
        return 0


def _left(event: events.Event, state: RunState) -> tuple[tuple[str, str], ...]:
    if event["type"] != "step":
        return ()
    newest = event["step"] == state.step and not state.ended  # what was read at once has one time that is left
    left = f", {duration(state.left)} left" if newest and state.left else ""
    return ((f"   {event['step']:,} of {state.total:,}{left}", "faint"),)


def _end(state: RunState) -> int:
    match state.phase:
        case "failed":
            error = MlxtuneError(state.error, mend=state.mend)
            complain(error)
            return state.code
        case "stopped":
            return 3
    return 0


def _crash(run: Run, state: RunState) -> MachineError:
    last = one_line(" ".join(run.log_tail(1)), 160)
    safe = (
        f"Checkpoint {state.checkpoints[-1]} is whole: mlxtune runs resume {run.id}"
        if state.checkpoints
        else "Nothing was saved yet."
    )
    return MachineError(
        f"{run.id} ended at step {state.step:,} without saying why.{f' Its log ends with: {last}' if last else ''}", mend=safe
    )
