"""Start a detached worker, and watch it. The parent returns once the worker has written its first event.

As with inspect_ai's detached launch, a launch record is written to the folder before anything waits for the worker.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune import __version__
from mlxtune.core.child_process import python_command, start_detached
from mlxtune.core.errors import InputError, Interrupted, MachineError, MlxtuneError
from mlxtune.core.files import machine_id, read_json, write_json, write_text
from mlxtune.core.gpu_errors import gpu_error
from mlxtune.core.text import one_line
from mlxtune.recipe import Recipe, dump, read_template
from mlxtune.runs import events, queue, registry
from mlxtune.runs.events import Event, EventReader
from mlxtune.runs.locks import is_locked, require_free_accelerator
from mlxtune.runs.registry import LAUNCH_FILE, RUN_KINDS, STARTING_FOR, Run
from mlxtune.runs.state import UNREADABLE, RunState, refused_state

if TYPE_CHECKING:
    from subprocess import Popen

TEMPLATE_FILE = "chat_template.jinja"
START_TIMEOUT = STARTING_FOR  # seconds a worker may take to write its first event
POLL = 0.2  # seconds between two reads of a watched run
EXIT_TIMEOUT = 30.0  # seconds a worker may take to exit after its terminal event


class DetachedEarly(KeyboardInterrupt):
    """Ctrl-C while ``run``'s worker was starting. The worker continues."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run


def start(workspace: Path, kind: str, recipe: Recipe, request: Mapping[str, Any] | None = None, *, template: str = "") -> Run:
    """Create a run of ``recipe``, start its detached worker, and return after the worker's first event.

    ``request`` is what the worker needs besides the recipe; it is stored in the launch record. ``template`` is the source of a chat
    template that replaces the recipe's. Raise ``RecipeError`` if the chat template is missing, ``MachineError`` if another process
    holds the accelerator or the worker dies early, and ``DetachedEarly`` on Ctrl-C after the worker was started.
    """
    template = template or read_template(recipe)
    require_free_accelerator()
    run = registry.create(workspace, kind, recipe.name)
    write_text(run.folder / "recipe.toml", dump(freeze(recipe, run.folder, template)))
    return _spawn(run, kind, request or {})


def freeze(recipe: Recipe, folder: Path, template: str) -> Recipe:
    """Return ``recipe`` with a date, by default today's, and with its own copy of the chat ``template`` that it names, if any.

    Prompts are then rendered the same way when the run is resumed or its adapter is evaluated on another day.
    """
    recipe = replace(recipe, data=replace(recipe.data, date=recipe.data.date or time.strftime("%Y-%m-%d")))
    if not template:
        return recipe
    write_text(folder / TEMPLATE_FILE, template)
    return replace(recipe, model=replace(recipe.model, template=str(folder / TEMPLATE_FILE)))


def is_of(run: Run, recipe: Recipe) -> bool:
    """Return whether ``run`` was started, on any day, with ``recipe``, whose settings are complete."""
    try:
        own = run.recipe()
        data = replace(recipe.data, date=recipe.data.date or own.data.date)
        frozen = replace(recipe, data=data, model=replace(recipe.model, template=own.model.template))
        return dump(frozen) == dump(own) and read_template(recipe) == read_template(own)
    except MlxtuneError:
        return False


def resume(run: Run) -> Run:
    """Restart a run's worker from the latest complete checkpoint. Raise ``InputError`` if that is not possible."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    while is_locked(run.lock):
        if not run.state().ended or time.monotonic() > deadline:
            raise InputError(f"{run.id} is already running.")
        time.sleep(0.02)
    if run.state().phase == "finished":
        raise InputError(f"{run.id} has already finished, so there is nothing to resume.")
    request, kind = read_request(run.folder), read_json(run.folder / LAUNCH_FILE).get("kind")
    require_free_accelerator()
    return _spawn(run, kind if kind in (*RUN_KINDS,) else run.kind, request)


def read_request(folder: Path) -> dict[str, Any]:
    """Return the request from the launch record in ``folder``. Raise ``InputError`` if it is missing or damaged."""
    match read_json(folder / LAUNCH_FILE):
        case {"request": dict(request)}:
            return request
    raise InputError(f"{folder / LAUNCH_FILE} is damaged.", hint=f"mlxtune runs remove {folder.name}")


@lru_cache(maxsize=512)
def evaluated_run(folder: Path) -> str:
    """Return the ID of the run whose adapter the evaluation in ``folder`` is about, or ``""``. It is read once."""
    try:
        return str(read_request(folder).get("run", ""))
    except MlxtuneError:
        return ""


def write_record(run: Run, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return the launch record: the worker's request, its command, and its machine."""
    record = {
        "v": 1, "kind": kind, "request": dict(request), "command": python_command(RUN_KINDS[kind].module, str(run.folder)),
        "version": __version__, "host": socket.gethostname(), "machine": machine_id(),
    }  # fmt: skip
    write_json(run.folder / LAUNCH_FILE, record)
    return record


def _spawn(run: Run, kind: str, request: Mapping[str, Any]) -> Run:
    old_count = len(events.read_all(run.folder))
    record = write_record(run, kind, request)
    queue.record_run(run.folder)
    child = start_detached(record["command"], run.log)
    try:
        write_json(run.folder / LAUNCH_FILE, record | {"pid": child.pid, "started": time.time()})
        return _wait_for_first_event(run, child, old_count)
    except KeyboardInterrupt as error:
        raise DetachedEarly(run) from error


def _wait_for_first_event(run: Run, child: Popen[bytes], old_count: int) -> Run:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if any(event["type"] != "heartbeat" for event in events.read_all(run.folder)[old_count:]):
            return run
        if child.poll() is not None and len(events.read_all(run.folder)) == old_count:
            last = one_line(" ".join(run.log_tail(1)), 200) or f"exit code {child.returncode}"
            raise MachineError(f"The worker of {run.id} exited before its first event: {last}", hint=f"See its log: {run.log}")
        time.sleep(0.02)
    if child.poll() is None and len(events.read_all(run.folder)) > old_count:
        return run  # its heartbeat says that it is starting, slowly
    raise MachineError(f"The worker of {run.id} wrote no event within {START_TIMEOUT:.0f} s.", hint=f"See its log: {run.log}")


def watch(run: Run) -> Iterator[tuple[list[Event], RunState]]:
    """Yield the new events of ``run`` and the state after them, until it ends. Raise ``MachineError`` if its worker has died."""
    reader, state = EventReader(run.folder), RunState()
    while not state.ended:
        new = reader.read()
        if not new and run.status(state) == "crashed":
            raise _crash_error(run, state)
        try:
            state = state.apply(new)
        except UNREADABLE as error:
            new, state = [], refused_state(error, run.id)
        yield new, state
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
    kept = "Every result" if run.kind == "search" else f"Checkpoint {state.checkpoints[-1]}" if state.checkpoints else ""
    hint = f"{kept} is saved; to continue, run: mlxtune runs resume {run.id}" if kept else "Nothing had been saved yet."
    return MachineError(f"{message}{f' Its log ends with: {last_line}' if last_line else ''}", hint=hint)
