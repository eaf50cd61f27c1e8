"""The runs in a workspace: create, list, find, stop, and remove them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import tomlkit

from mlxtune.core.errors import EmptyWorkspaceError, InputError, MachineError, RecipeError
from mlxtune.core.files import disk_errors, machine_id, read_json
from mlxtune.core.text import nearest, one_line
from mlxtune.recipe import Recipe, dump, load, parse
from mlxtune.recipe.parent import CONFIG, WEIGHTS, inherit
from mlxtune.runs import events
from mlxtune.runs.locks import is_locked, lock_note
from mlxtune.runs.state import UNREADABLE, RunState, refused_state

LAUNCH_FILE = "launch.json"  # what a worker was started with, and on which machine
RunStatus = Literal["starting", "running", "waiting", "cooling", "quiet", "finished", "stopped", "failed", "crashed"]

LOCK_FILE = "run.lock"
CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints, each an adapter folder named by its step
QUIET_AFTER = 40.0  # seconds without any event, including heartbeats, while the lock is held
STARTING_FOR = 60.0  # seconds that a new or restarting run may be without a lock
ACTIVE: frozenset[RunStatus] = frozenset({"running", "waiting", "cooling", "quiet"})  # has a process that can be asked to stop
ENDED_EARLY: frozenset[RunStatus] = frozenset({"stopped", "failed", "crashed"})
ALIVE: frozenset[RunStatus] = ACTIVE | {"starting"}


@dataclass(frozen=True)
class RunKind:
    folder: str  # in the workspace
    module: str  # of its worker
    noun: str
    command: str  # that starts one

    @property
    def nouns(self) -> str:
        return f"{self.noun}{'es' if self.noun.endswith('ch') else 's'}"

    @property
    def create_hint(self) -> str:
        return f"Start one with: mlxtune {self.command}"


RUN_KINDS = {
    "train": RunKind("runs", "mlxtune.training.worker", "training run", "train RECIPE"),
    "eval": RunKind("evals", "mlxtune.evaluation.worker", "evaluation", "eval RECIPE"),
    "validate": RunKind("validations", "mlxtune.evaluation.worker", "validation", "improve RUN"),
    "search": RunKind("searches", "mlxtune.training.search.search_worker", "search", "search RECIPE"),
    "export": RunKind("exports", "mlxtune.adapters.export.worker", "export", "export mlx ADAPTER"),
    "generate": RunKind("generations", "mlxtune.data.generate.worker", "generation", "data generate RECIPE"),
}


@dataclass(frozen=True)
class Run:
    """A run's folder, and the ``step`` of the checkpoint that is used as its adapter; 0 for the adapter of a finished run.

    Everything else is read from disk on demand.
    """

    folder: Path
    step: int = 0

    @property
    def id(self) -> str:
        """The folder's name, which consists of the date, the time, and the recipe name; for a checkpoint, with ``@STEP``."""
        return f"{self.folder.name}@{self.step}" if self.step else self.folder.name

    @property
    def kind(self) -> str:
        """A key in ``RUN_KINDS``."""
        return next((kind for kind, item in RUN_KINDS.items() if item.folder == self.folder.parent.name), "train")

    @property
    def lock(self) -> Path:
        return self.folder / LOCK_FILE

    @property
    def log(self) -> Path:
        """The file with the worker process's output."""
        return self.folder / "worker.log"

    @property
    def adapter(self) -> Path:
        return self.folder / CHECKPOINTS / f"{self.step:07d}" if self.step else self.folder / "adapter"

    @property
    def has_adapter(self) -> bool:
        return (self.adapter / WEIGHTS).is_file()

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the saved checkpoints, oldest first."""
        return sorted(int(file.parent.name) for file in self.folder.glob(f"{CHECKPOINTS}/[0-9]*/{WEIGHTS}"))

    def at(self, step: int) -> Run:
        """Return the run with the checkpoint of ``step`` as its adapter. Raise ``InputError`` if there is none."""
        steps = self.checkpoints
        if step not in steps:
            hint = f"It has {', '.join(f'{self.folder.name}@{one}' for one in steps)}." if steps else ""
            raise InputError(f"{self.folder.name} has no checkpoint of step {step:,}.", hint=hint)
        return Run(self.folder, step)

    def with_adapter(self) -> Run:
        """Return the run if it has an adapter or, if it ended early, with its last checkpoint. Raise ``InputError`` otherwise."""
        if self.has_adapter:
            return self
        status = self.status()
        if status in ENDED_EARLY and (steps := self.checkpoints):
            return self.at(steps[-1])
        hint = "Wait for it to finish." if status in ACTIVE else f"mlxtune runs resume {self.id}"
        raise InputError(f"{self.id} has no adapter: it is {status}.", hint=hint)

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        return load(self.folder / "recipe.toml", overrides)

    def state(self) -> RunState:
        """Return the state after all events so far. A run of another version has failed, with that as its error."""
        try:
            return RunState().apply(events.read_all(self.folder))
        except UNREADABLE as error:
            return refused_state(error, self.id)

    def status(
        self, state: RunState | None = None, now: float | None = None, read: Callable[[], RunState] | None = None
    ) -> RunStatus:
        """Return the status, based on ``state`` if it is already known. ``read`` returns the newest state, by default :meth:`state`.

        ``crashed`` means that no process holds the lock and there is no terminal event. ``quiet`` means that a process holds the lock
        but has not written any event for ``QUIET_AFTER`` seconds.
        """
        locked = is_locked(self.lock)
        if state is None or not (locked or state.ended):  # a worker writes its last event before it releases the lock
            state = (read or self.state)()
            locked = locked or is_locked(self.lock)  # it may have restarted in the meantime
        now = time.time() if now is None else now
        if locked and not state.ended:  # a worker that wrote its terminal event is about to release it
            if state.updated and now - state.updated > QUIET_AFTER:
                return "quiet"
            if state.waiting:
                return "cooling" if state.waiting == "heat" else "waiting"
            return "running" if state.pid else "starting"
        match state.phase:
            case "finished" | "stopped" | "failed":
                return state.phase
            case "new" if abs(now - self.folder.stat().st_mtime) < STARTING_FOR:  # the clock may have been ahead
                return "starting"
            case "restarting" if abs(now - state.updated) < STARTING_FOR:
                return "starting"
        return "crashed"

    def log_tail(self, lines: int = 5) -> list[str]:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:]
        except FileNotFoundError:
            return []


def create(workspace: Path, kind: str, name: str) -> Run:
    """Create a run folder, such as ``runs/20261124-1412-name``, with a new ID. Raise ``MachineError`` if that fails."""
    parent = workspace / RUN_KINDS[kind].folder
    stem = f"{time.strftime('%Y%m%d-%H%M')}-{name}"
    with disk_errors(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        attempt = 0
        while True:
            attempt += 1
            folder = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
            if not any((workspace / item.folder / folder.name).exists() for item in RUN_KINDS.values()):
                with suppress(FileExistsError):  # another process was faster
                    folder.mkdir()
                    return Run(folder)


def list_runs(workspace: Path, kind: str | None = "train") -> list[Run]:
    """Return the runs of one kind, or of all kinds if ``kind`` is ``None``, newest first."""
    entries = []
    for item in [RUN_KINDS[kind]] if kind else RUN_KINDS.values():
        for folder in (workspace / item.folder).glob("*"):
            try:
                entries.append(((folder / "recipe.toml").stat().st_mtime_ns, folder.name, folder))
            except OSError:
                continue  # not a run, or removed in the meantime
    return [Run(folder) for *_, folder in sorted(entries, reverse=True)]


def find_run(workspace: Path, name: str, kind: str | None = "train") -> Run:
    """Return the run with this folder, ID, unique part of an ID, or ``last``. Raise ``InputError`` if there is none.

    A training run may be followed by ``@STEP``, for one of its checkpoints. If ``kind`` is ``None``, runs of all kinds match, but
    training runs are preferred, because an evaluation or export may share an ID. ``last`` is then the run that is active, or else
    the newest training run, or else the newest run. Of evaluations, it is the newest one that has finished.
    """
    if os.path.isfile(Path(name, "recipe.toml")):  # unlike Path.is_file, does not fail if the name is too long
        return Run(Path(name).resolve())
    part, _, step = name.rpartition("@")
    if kind == "train" and part and step.isdecimal():
        return find_run(workspace, part).at(int(step))
    item = RUN_KINDS[kind or "train"]
    list_hint = f"List them with: mlxtune runs --kind {kind or 'train'}"
    runs = list_runs(workspace, kind)
    if os.sep in name or name.endswith(".json"):
        what = "report" if name.endswith(".json") else item.noun
        raise InputError(f"There is no {what} at {one_line(name, 200)}.", hint=list_hint if runs else item.create_hint)
    if not runs:
        raise EmptyWorkspaceError(f"There are no {item.nouns} in {workspace / item.folder}.", hint=item.create_hint)
    if name == "last":
        active = (run for run in runs if kind is None and is_locked(run.lock))
        trained = (run for run in runs if run.kind == "train")
        evaluated = (run for run in runs if kind == "eval" and run.state().phase == "finished")
        return next(chain(active, trained, evaluated, runs))
    matches = [run for run in runs if run.id == name] or [run for run in runs if name in run.id]
    matches = [run for run in matches if run.kind == "train"] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(run.id for run in matches[:5])
        raise InputError(f"{name} is ambiguous: it matches {ids}.", hint="Use a longer part of the ID.")
    suggestion = nearest(name, [part for run in runs for part in (run.id, run.id.split("-", 2)[-1])])
    raise InputError(f"There is no {item.noun} named {name}.", hint=f"Did you mean {suggestion}?" if suggestion else list_hint)


def run_of(adapter: Path) -> Run:
    """Return the run whose folder ``adapter`` is in, as its adapter or as a checkpoint."""
    if adapter.parent.name == CHECKPOINTS:
        return Run(adapter.parent.parent, int(adapter.name))
    return Run(adapter.parent)


def evaluation_recipe(run: Run, overrides: Sequence[str] = ()) -> tuple[Recipe, Path | None]:
    """Return the recipe to evaluate ``run`` by: its own, with the ``[evaluation]`` that the workspace's recipe of this name has now.

    Also return the file of that recipe if its ``[evaluation]`` differs from that of the run. Raise ``RecipeError`` if it is invalid.
    """
    own = run.recipe()
    file = run.folder.parent.parent / "recipes" / f"{own.name}.toml"
    before, now = tomllib.loads(dump(own)), tomllib.loads(dump(load(file))) if file.is_file() else {}
    if now.get("name") != own.name or now["evaluation"] == before["evaluation"]:
        return run.recipe(overrides), None
    text = tomlkit.dumps(before | {"evaluation": now["evaluation"]})
    return parse(text, folder=run.folder, overrides=overrides, where=str(file)), file


def resolve_parent(workspace: Path, recipe: Recipe) -> Recipe:
    """Return ``recipe`` with the settings of its parent adapter, if it has one.

    ``adapter.parent`` is a folder, a run, or the name of a recipe whose newest run has an adapter. Raise ``RecipeError`` if there
    is no such adapter.
    """
    parent = recipe.adapter.parent
    return inherit(recipe, _parent_folder(workspace, recipe, parent)) if parent else recipe


def _parent_folder(workspace: Path, recipe: Recipe, parent: str) -> Path:
    for folder in (recipe.path(parent), recipe.path(parent) / "adapter"):
        if (folder / CONFIG).is_file():
            return folder
    if "@" in parent:
        return find_run(workspace, parent).adapter
    runs = [run for run in list_runs(workspace) if (run.adapter / CONFIG).is_file()]
    match = next((run for run in runs if run.id == parent), None)
    match = match or next((run for run in runs if run.recipe().name == parent), None)
    if match:
        return match.adapter
    message = f"adapter.parent: {parent} is not an adapter folder, a run with an adapter, or a recipe with such a run."
    raise RecipeError(message, hint="Train the parent's recipe first, or use an adapter's folder.")


def stop(run: Run) -> None:
    """Ask the worker to finish its step, save, and exit.

    Raise ``InputError`` if the run is not running or runs on another machine, and ``MachineError`` if its process is unknown.
    """
    state = run.state()
    if run.status(state) not in ACTIVE:
        raise InputError(f"{run.id} is not running, but {run.status(state)}.")
    if host := other_host(run):
        raise InputError(f"{run.id} runs on {one_line(host, 80)}.", hint=f"Stop it there: mlxtune runs stop {run.id}")
    if not _is_worker(run, state.pid):
        hint = "Stop it on the machine or in the container that runs it."
        raise MachineError(f"Process {state.pid} is not the worker of {run.id}, so it was not stopped.", hint=hint)
    try:
        os.kill(state.pid, signal.SIGTERM)
    except ProcessLookupError as error:
        raise MachineError(f"The worker of {run.id} (process {state.pid}) no longer exists.") from error


def other_host(run: Run) -> str:
    """Return the name of the machine that ``run`` was started on, which may share the disk, if it is not this one."""
    with suppress(InputError, KeyError, TypeError):  # it has not been written yet, or is damaged
        record = read_json(run.folder / LAUNCH_FILE)
        return "" if record["machine"] == machine_id() else str(record["host"])
    return ""


def _is_worker(run: Run, pid: int) -> bool:
    """Return whether ``pid`` is the process that holds the lock of ``run``, as far as can be determined.

    The lock's file names its holder. In a container, that process ID may belong to another process, whose command line does not
    contain the run's folder.
    """
    if lock_note(run.lock) not in ("", str(pid)):
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # a Mac, or a process that no longer exists
        return True
    return os.fsencode(run.id) in command


def remove(run: Run) -> None:
    """Delete a run's folder. Raise ``InputError`` if the run is running."""
    if is_locked(run.lock):
        raise InputError(f"{run.id} is running.", hint=f"Stop it first: mlxtune runs stop {run.id}")
    if not re.match(r"\d{8}-\d{4}-", run.id):
        raise InputError(f"{run.folder} does not look like a run folder, so it was not deleted.")
    shutil.rmtree(run.folder)
