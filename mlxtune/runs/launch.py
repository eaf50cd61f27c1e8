"""Start a detached worker and hand over: the parent returns only when the child has said that it lives.

The shape is inspect_ai's detached launch: a record of what was started lies in the folder before anyone waits for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune import __version__
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import disk_errors, read_json, write_json, write_text
from mlxtune.core.text import one_line
from mlxtune.recipe import Recipe, dump
from mlxtune.runs import events, parents, registry
from mlxtune.runs.locks import is_held, require_lease
from mlxtune.runs.registry import Run

RECORD = "launch.json"
MODULES = {"train": "mlxtune.training.worker", "eval": "mlxtune.evaluation.worker", "export": "mlxtune.adapters.worker"}
PATIENCE = 60.0  # seconds a worker may take to say its first word
LEAVING = 5.0  # seconds one that has said its last word may take to be gone


def start(workspace: Path, kind: str, recipe: Recipe, request: Mapping[str, Any] | None = None) -> Run:
    """Create a run of ``recipe`` and start its worker, detached. Returns when the worker has said ``run.started``.

    ``request`` is what the worker needs beyond the recipe; it stands in the launch record. Raises ``RecipeError`` when training is
    to start from an adapter that is not there, ``MachineError`` when another process has the accelerator, and when the worker ends
    without a word.
    """
    recipe = parents.resolve(workspace, recipe) if kind == "train" else recipe
    require_lease()
    run = registry.create(workspace, kind, recipe.name)
    write_text(run.folder / "recipe.toml", dump(recipe))
    return _spawn(run, kind, dict(request or {}))


def resume(run: Run) -> Run:
    """Start a run's worker again; it goes on from the newest whole checkpoint. Raises ``InputError`` if it cannot."""
    give_up = time.monotonic() + LEAVING
    while is_held(run.lock):
        if not run.state().ended or time.monotonic() > give_up:
            raise InputError(f"{run.id} is running already.")
        time.sleep(0.02)
    record = read_json(run.folder / RECORD)
    state = run.state()
    if state.phase == "finished":
        raise InputError(f"{run.id} has finished; there is nothing to resume.")
    require_lease()
    return _spawn(run, record["kind"], record["request"])


def request(folder: Path) -> dict[str, Any]:
    """What the launcher asked of the worker in ``folder``."""
    found: dict[str, Any] = read_json(folder / RECORD)["request"]
    return found


def _spawn(run: Run, kind: str, request: dict[str, Any]) -> Run:
    seen = len(events.read_all(run.folder))
    command = [sys.executable, "-m", MODULES[kind], str(run.folder)]
    record = {"v": 1, "kind": kind, "request": request, "command": command, "version": __version__, "host": socket.gethostname()}
    write_json(run.folder / RECORD, record)
    with disk_errors(str(run.log)), run.log.open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    write_json(run.folder / RECORD, record | {"pid": child.pid, "started": time.time()})
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if any(event["type"] != "heartbeat" for event in events.read_all(run.folder)[seen:]):
            return run
        if child.poll() is not None and len(events.read_all(run.folder)) == seen:
            last = one_line(" ".join(run.log_tail(1)), 200) or f"exit code {child.returncode}"
            raise MachineError(f"The worker of {run.id} ended before it said a word: {last}", mend=f"Its log: {run.log}")
        time.sleep(0.02)
    raise MachineError(f"The worker of {run.id} said nothing for {PATIENCE:.0f} s.", mend=f"Its log: {run.log}")
