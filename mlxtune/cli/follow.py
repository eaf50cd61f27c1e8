"""Follow a run until it ends. Ctrl-C detaches; the run continues."""

import time
from collections.abc import Callable
from json import dumps
from typing import NoReturn

import typer

from mlxtune.cli.output import info, print_error, progress_bar, show, show_json
from mlxtune.core.errors import Interrupted, MlxtuneError
from mlxtune.core.text import duration, plural
from mlxtune.present.run import answering_text, log_line, progress_line
from mlxtune.present.terminal import Part
from mlxtune.runs.events import Event
from mlxtune.runs.launch import require_finished, watch
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState

PROGRESS_SECONDS = 10.0  # between two lines about the progress of one phase


def follow(run: Run, *, json: bool = False, on_state: Callable[[RunState], None] | None = None) -> int:
    """Print all events of ``run`` and return the run's exit code.

    Raise ``MachineError`` if its worker has died, and ``typer.Exit`` if the user detaches with Ctrl-C.

    With ``json``, each event is a line on stdout. With ``on_state``, the caller shows the progress and only warnings are printed.
    """
    state, announced = RunState(), 0.0
    try:
        for events, state in watch(run):
            for event in events:
                line = log_line(event)
                is_due = line is None and abs(event["t"] - announced) >= PROGRESS_SECONDS
                if is_due and event["type"] in ("reference", "replay", "validating"):
                    line, announced = progress_line(event), event["t"]
                if json:
                    print(dumps(event), flush=True)
                elif line and (on_state is None or event["type"] in ("warning", "run.restarting")):
                    clock = time.strftime("%H:%M:%S", time.localtime(line.t))
                    info((f"{clock}  ", "faint"), (line.glyph, f"bold {line.style}"), "  ", line.text, *_remaining(event, state))
                    if event["type"] == "data.ready" and event["valid"] and not (state.steps or state.validations or state.ended):
                        text = f"computing the loss of {plural(event['valid'], 'validation row')} before the first step"
                        info((f"{clock}  ", "faint"), ("·", "bold faint"), "  ", text)
            if on_state:
                on_state(state)
    except KeyboardInterrupt:
        print_detached(run)
        raise typer.Exit(0) from None
    try:
        require_finished(state)
    except Interrupted as error:
        if not json:
            info("  Continue it: ", (f"mlxtune runs resume {run.id}", "primary"))
        return error.exit_code
    except MlxtuneError as error:
        print_error(error)
        return error.exit_code
    return 0


def announce(run: Run, noun: str = "run", *, detach: bool = False, json: bool = False) -> bool:
    """Print the ID of a ``run`` that was started. Return whether to follow it, which is not so with ``detach``."""
    if detach:
        show_json({"run": run.id, "folder": str(run.folder)}) if json else show(run.id)
    else:
        info(("  ", ""), f"{run.id}   ", (f"press Ctrl-C to detach; the {noun} continues", "muted"))
    return not detach


def print_detached(run: Run) -> None:
    info("")
    info(("■ ", "muted"), f"Detached from {run.id}; it continues.")
    for verb in ("attach", "stop"):
        info("  ", (f"mlxtune runs {verb} {run.id}", "primary"))


def follow_answers(run: Run) -> int:
    """Follow a run whose model answers rows or questions, show how many were answered, and return its exit code."""
    with progress_bar("loading the model") as update:

        def draw(state: RunState) -> None:
            if one := state.answering:
                update(answering_text(state), one.done / max(1, one.total))

        return follow(run, on_state=draw)


def follow_and_show(run: Run, show_result: Callable[[Run], object], *, json: bool) -> NoReturn:
    """Follow a run as suits its kind, print its result unless ``json`` is set, and exit with its code."""
    code = follow(run, json=json) if json or run.kind in ("train", "search") else follow_answers(run)
    if not json:
        show_result(run)
    raise typer.Exit(code)


def _remaining(event: Event, state: RunState) -> list[Part]:
    """Return a step's progress, with the remaining time if it is the latest step."""
    if event["type"] != "step":
        return []
    newest = event["step"] == state.step and not state.ended
    left = f", {duration(state.remaining_seconds)} left" if newest and state.remaining_seconds else ""
    return [(f"   {event['step']:,} of {state.total:,}{left}", "faint")]
