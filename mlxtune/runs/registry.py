"""The runs of a workspace: find them, name them, and say how they are."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import disk_errors
from mlxtune.core.text import nearest, one_line
from mlxtune.recipe import Recipe, load
from mlxtune.runs import events
from mlxtune.runs.locks import is_held
from mlxtune.runs.state import RunState, fold

Status = Literal["starting", "running", "quiet", "finished", "stopped", "failed", "crashed"]

QUIET_AFTER = 40.0  # seconds without any event, heartbeat included, while the lock is held
STARTING_FOR = 30.0  # seconds that a new folder may be without a lock and events

FOLDERS = {"train": "runs", "eval": "evals", "export": "exports"}
_WORDS = {  # what a run of each kind is called, how the first one is made, where all can be seen
    "train": ("run", "Start one with: mlxtune train RECIPE", "See them with: mlxtune runs"),
    "eval": ("evaluation", "Make one: mlxtune eval RECIPE", "They are the folders in evals/."),
    "export": ("export", "Make one: mlxtune adapters export ADAPTER", "They are the folders in exports/."),
}


@dataclass(frozen=True)
class Run:
    """A run's folder. All else is read from it when asked for."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name: date, time and recipe name."""
        return self.folder.name

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    @property
    def log(self) -> Path:
        """What the worker's process printed."""
        return self.folder / "worker.log"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def recipe(self) -> Recipe:
        """The resolved recipe the run was started with."""
        return load(self.folder / "recipe.toml")

    def state(self) -> RunState:
        """The fold over all events so far."""
        return fold(events.read_all(self.folder))

    def status(self, state: RunState | None = None, now: float | None = None) -> Status:
        """How the run is, told from its events and its lock: slow, hung and crashed differ."""
        state = state or self.state()
        now = time.time() if now is None else now
        if is_held(self.lock) and not state.ended:  # a worker that said its last word is about to let go
            return "quiet" if state.updated and now - state.updated > QUIET_AFTER else "running" if state.pid else "starting"
        match state.phase:
            case "finished" | "stopped" | "failed":
                return state.phase
            case "new" if now - self.folder.stat().st_mtime < STARTING_FOR:
                return "starting"
        return "crashed"

    def log_tail(self, lines: int = 5) -> list[str]:
        """The last lines that the worker's process printed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
        except FileNotFoundError:
            return []


def create(workspace: Path, kind: str, name: str) -> Run:
    """A new, empty run folder: ``runs/20261124-1412-name``. Raises ``MachineError`` when it cannot be made."""
    parent = workspace / FOLDERS[kind]
    stem = f"{time.strftime('%Y%m%d-%H%M')}-{name}"
    with disk_errors(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                folder.mkdir()
                return Run(folder)
            except FileExistsError:
                continue
    raise MachineError(f"{parent} holds a thousand runs of this minute already.")


def all_runs(workspace: Path, kind: str = "train") -> list[Run]:
    """Every run of a workspace, newest first."""
    parent = workspace / FOLDERS[kind]
    found = []
    for folder in parent.glob("*"):
        try:
            found.append(((folder / "recipe.toml").stat().st_mtime_ns, folder.name, folder))
        except OSError:
            continue  # no run, or one that was removed meanwhile
    return [Run(folder) for *_, folder in sorted(found, reverse=True)]


def find(workspace: Path, which: str, kind: str = "train") -> Run:
    """The run meant by ``which``: a folder, an id, a unique part of an id, or ``last``. Raises ``InputError``."""
    if os.path.isfile(Path(which, "recipe.toml")):  # unlike Path.is_file, no error for a name that is too long
        return Run(Path(which).resolve())
    word, first, see = _WORDS[kind]
    runs = all_runs(workspace, kind)
    if os.sep in which or which.endswith(".json"):
        what = "report" if which.endswith(".json") else word
        raise InputError(f"There is no {what} at {one_line(which, 200)}.", mend=see if runs else first)
    if not runs:
        raise InputError(f"There are no {word}s in {workspace / FOLDERS[kind]}.", mend=first)
    if which == "last":
        return runs[0]
    exact = [run for run in runs if run.id == which]
    partial = exact or [run for run in runs if which in run.id]
    if len(partial) == 1:
        return partial[0]
    if partial:
        raise InputError(f"{which} could be any of {', '.join(run.id for run in partial[:5])}.", mend="Give more of the name.")
    hint = nearest(which, [run.id for run in runs])
    raise InputError(f"There is no {word} {which}.", mend=f"Did you mean {hint}?" if hint else see)


def stop(run: Run) -> None:
    """Ask a run's worker to finish its step, save and end. Raises ``InputError`` when nothing runs there."""
    state = run.state()
    if run.status(state) not in ("running", "quiet"):
        raise InputError(f"{run.id} is not running: it is {run.status(state)}.")
    try:
        os.kill(state.pid, signal.SIGTERM)
    except ProcessLookupError as error:
        raise MachineError(f"The worker of {run.id} (process {state.pid}) is gone.") from error


def remove(run: Run) -> None:
    """Delete a run's folder. Raises ``InputError`` while it runs."""
    if is_held(run.lock):
        raise InputError(f"{run.id} is running.", mend=f"Stop it first: mlxtune runs stop {run.id}")
    if not re.match(r"\d{8}-\d{4}-", run.id):
        raise InputError(f"{run.folder} does not look like a run's folder, so it stays.")
    shutil.rmtree(run.folder)
