"""The adapter library of a workspace: list, find, compare, rename, tag, remove and restore adapters. Imports no mlx.

An adapter is a folder: ``runs/ID/adapter`` for a finished run, or ``adapters/NAME`` if imported. A checkpoint of a run is an adapter,
too: it is found as ``RUN@STEP`` but not listed. Names and tags are stored in
``adapters/library.jsonl``, an append-only journal keyed by folder. Removing an adapter moves its folder to ``adapters/.trash``. The
journal is written before the folder is moved, and only existing folders count, so after a crash in between, the adapter is in
exactly one of the two places.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from mlxtune.adapters.entry import AdapterEntry, AdapterScore, read_entry, score_from_report
from mlxtune.adapters.layout import read_config
from mlxtune.core.errors import EmptyWorkspaceError, InputError, MlxtuneError, ModelError
from mlxtune.core.files import disk_errors, sync_folder
from mlxtune.core.journal import Journal, read
from mlxtune.core.text import nearest, one_line
from mlxtune.evaluation import history
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side
from mlxtune.models import bundled
from mlxtune.models.resolve import same_base
from mlxtune.recipe.parent import CONFIG, WEIGHTS
from mlxtune.runs import launch, registry
from mlxtune.runs.locks import file_lock, is_locked
from mlxtune.runs.registry import Run

FOLDER, JOURNAL, TRASH = "adapters", "library.jsonl", ".trash"
RESERVED = ("base", "last")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAG = re.compile(r"[\w][\w.-]{0,31}")
# a server lists the adapters for each request, and their reports are slow to read
_scores: WeakKeyDictionary[history.Evaluation, AdapterScore | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class RemovedAdapter:
    """A removed adapter: its name, its folder relative to the workspace, its folder in the trash, and when it was removed."""

    name: str
    key: str
    trash: Path
    t: float


@dataclass(frozen=True)
class AdapterComparison:
    """Two adapters, and the comparison of their newest evaluations, if there is one."""

    first: AdapterEntry
    second: AdapterEntry
    hashes: tuple[str, str]  # of their weights
    contrast: EvaluationComparison | None = None
    unevaluated: str = ""  # the name of an adapter that was not evaluated in this workspace
    error: str = ""  # the message of the error that prevents the comparison


@dataclass
class _LibraryState:
    """The state after replaying the journal. ``removed`` is keyed by the folder in the trash."""

    names: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    removed: dict[str, RemovedAdapter] = field(default_factory=dict)


def names_by_run(workspace: Path) -> dict[str, str]:
    """Return the names that adapters of runs were given, by run ID."""
    names = ((Path(key), name) for key, name in _fold(workspace).names.items())
    return {key.parts[1]: name for key, name in names if key.parts[:1] == ("runs",) and len(key.parts) == 3}


def removed_runs(workspace: Path) -> frozenset[str]:
    return frozenset(Path(item.key).parts[1] for item in removed(workspace) if item.key.startswith("runs/"))


def all_adapters(workspace: Path) -> list[AdapterEntry]:
    """Return all adapters, newest first. Unreadable adapters have a ``problem``."""
    state = _fold(workspace)
    evaluated = history.evaluations(workspace)
    entries = []
    for key in _keys(workspace):
        folder = workspace / key
        run = folder.parent.name if key.startswith("runs/") else ""
        name = state.names.get(key) or run or folder.name
        score = _score(history.evaluation_of(evaluated, run, folder))
        entries.append(read_entry(folder, key, name, tuple(state.tags.get(key, ())), score))
    return sorted(entries, key=lambda entry: (entry.created, entry.key), reverse=True)


def find(workspace: Path, which: str) -> AdapterEntry:
    """Return the adapter with this name, run, folder or unique part of a name, or the ``last`` one. Raise ``InputError``.

    ``RUN@STEP`` is a checkpoint, and a run that ended early has its last one.
    """
    folder = workspace / which
    if folder.parent.name == registry.CHECKPOINTS and folder.name.isdecimal():
        run = registry.run_of(folder)
        return _checkpoint_entry(workspace, run.at(run.step))
    name, _, step = which.rpartition("@")
    if name and step.isdecimal():
        return _checkpoint_entry(workspace, find_trained(workspace, which))
    entries = all_adapters(workspace)
    if which == "last" and entries:
        return entries[0]
    path = os.path.realpath(workspace / which)
    matches = [entry for entry in entries if which in (entry.name, entry.key) or path == os.path.realpath(entry.folder)]
    matches = matches or [entry for entry in entries if entry.run == which or entry.key == f"runs/{which}/adapter"]
    matches = matches or [entry for entry in entries if which and which in entry.name]
    matches = matches or [entry for entry in entries if which and which in entry.run]  # it was renamed
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(entry.name for entry in matches[:5])
        raise InputError(f"{one_line(which, 60)} is ambiguous: it matches {names}.", hint="Use a longer part of the name.")
    if ended_early := _ended_early(workspace, which):
        return _checkpoint_entry(workspace, ended_early.with_adapter())
    if not entries:
        raise EmptyWorkspaceError(f"There are no adapters in {workspace}.", hint="Train one: mlxtune train RECIPE")
    suggestion = nearest(which, [entry.name for entry in entries])
    hint = f"Did you mean {suggestion}?" if suggestion else "List them with: mlxtune adapters"
    raise InputError(f"There is no adapter {one_line(which, 60)}.", hint=hint)


def find_trained(workspace: Path, which: str) -> Run:
    """Return the training run that ``which`` names: as in :func:`registry.find_run`, or by the name of its adapter."""
    name, at, step = which.partition("@")
    run_id = next((run_id for run_id, own in names_by_run(workspace).items() if own == name), name)
    return registry.find_run(workspace, f"{run_id}{at}{step}")


def _ended_early(workspace: Path, which: str) -> Run | None:
    with suppress(InputError):
        run = find_trained(workspace, which)
        return run if run.status() in registry.ENDED_EARLY else None
    return None


def _checkpoint_entry(workspace: Path, run: Run) -> AdapterEntry:
    if not run.adapter.resolve().is_relative_to(workspace.resolve()):
        raise InputError(f"{run.id} is in another workspace.", hint="Change to that workspace's folder.")
    key = run.adapter.resolve().relative_to(workspace.resolve()).as_posix()
    name = f"{names_by_run(workspace).get(run.folder.name, run.folder.name)}@{run.step}"
    score = _score(history.evaluation_of(history.evaluations(workspace), run.id, run.adapter))
    return read_entry(workspace / key, key, name, (), score)


def _score(evaluation: history.Evaluation | None) -> AdapterScore | None:
    if evaluation and evaluation not in _scores:
        _scores[evaluation] = score_from_report(evaluation.report, evaluation.run.folder)
    return _scores[evaluation] if evaluation else None


def find_usable(workspace: Path, which: str) -> AdapterEntry:
    """Return the adapter like :func:`find`. Raise ``InputError`` if it has a problem."""
    entry = find(workspace, which)
    if entry.problem:
        raise InputError(f"{entry.name} cannot be used: {entry.problem}", hint=f"mlxtune adapters show {entry.name}")
    return entry


def compatible_adapters(workspace: Path, fingerprint: str) -> list[AdapterEntry]:
    """Return the usable adapters for the base with this ``fingerprint``, and those that record no base, newest first."""
    return [entry for entry in all_adapters(workspace) if not entry.problem and same_base(entry.base_hash, fingerprint)]


def find_compatible(workspace: Path, which: str, fingerprint: str) -> AdapterEntry:
    """Return the adapter ``which``, like :func:`find_usable`. Raise ``ModelError`` if it belongs to another base."""
    entry = find_usable(workspace, which)
    if not same_base(entry.base_hash, fingerprint):
        hint = f"Load that base: mlxtune chat {entry.name}"
        raise ModelError(f"{entry.name} was trained from different weights: {entry.base}.", hint=hint)
    return entry


def base_of(entry: AdapterEntry) -> str:
    """Return the base to load for ``entry``: an alias or a Hub ID, which also works on other machines, or else a folder.

    A recipe's path to a folder may be relative to the recipe, so the folder recorded in the adapter is used. Raise ``InputError`` if the base is not recorded.
    """
    recorded = str(read_config(entry.folder / CONFIG).get("model") or "")
    portable = bool(bundled.find(entry.base)) or f"models--{entry.base.replace('/', '--')}" in recorded
    base = entry.base if portable or not Path(recorded).is_dir() else recorded
    if not base:
        raise InputError(f"{entry.name} does not record its base model.", hint="Specify it: mlxtune chat BASE --adapter NAME")
    return base


def children(workspace: Path, parent: AdapterEntry) -> list[AdapterEntry]:
    """Return the adapters that were trained starting from ``parent``."""
    folder = os.path.realpath(parent.folder)
    return [entry for entry in all_adapters(workspace) if entry.parent and os.path.realpath(entry.parent.folder) == folder]


def compare(workspace: Path, first: AdapterEntry, second: AdapterEntry) -> AdapterComparison:
    """Compare ``second`` with ``first``. Neither may have a ``problem``."""
    hashes = first.sha256(), second.sha256()
    folders = []
    for entry in (first, second):
        if entry.score is None or entry.score.folder is None:
            return AdapterComparison(first, second, hashes, unevaluated=entry.name)
        folders.append(str(entry.score.folder))
    try:
        sides = [find_side(workspace, folder) for folder in folders]
        return AdapterComparison(first, second, hashes, compare_evaluations(*sides))
    except MlxtuneError as error:
        return AdapterComparison(first, second, hashes, error=error.message)


def rename(workspace: Path, which: str, name: str) -> AdapterEntry:
    """Rename an adapter. Its folder keeps its name. Raise ``InputError`` if the new name is invalid or taken."""
    check_name(name)
    with _edit(workspace, which) as (entry, append):
        require_free_name(workspace, name, except_key=entry.key)
        append({"do": "name", "key": entry.key, "name": name})
    return find(workspace, entry.key)


def check_tags(names: Iterable[str]) -> None:
    for name in names:
        if not _TAG.fullmatch(name):
            raise InputError(f"{one_line(name, 60)!r} is not a valid tag.", hint="Use up to 32 letters, digits, dots and dashes.")


def tag(workspace: Path, which: str, add: Sequence[str] = (), drop: Sequence[str] = ()) -> AdapterEntry:
    """Add tags to an adapter and drop others. Raise ``InputError`` if a tag is invalid or a dropped tag does not exist."""
    check_tags(add)
    with _edit(workspace, which) as (entry, append):
        if missing := [name for name in drop if name not in entry.tags]:
            raise InputError(f"{entry.name} has no tag {one_line(missing[0], 60)}.", hint=f"Its tags: {', '.join(entry.tags)}")
        tags = [name for name in dict.fromkeys((*entry.tags, *add)) if name not in drop]
        append({"do": "tags", "key": entry.key, "tags": tags})
    return find(workspace, entry.key)


def remove(workspace: Path, which: str) -> RemovedAdapter:
    """Move an adapter to the trash. Raise ``InputError`` if its run, or an evaluation or export of it, is still running."""
    with _edit(workspace, which) as (entry, append):
        if active := _find_active_use(workspace, entry):
            raise InputError(f"{active.id} is using {entry.name}.", hint=f"Stop it: mlxtune runs stop {active.id}")
        if is_locked(entry.folder.parent / "run.lock"):
            run = entry.run or entry.name
            raise InputError(f"{run} is still running.", hint=f"Stop it first: mlxtune runs stop {run}")
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{entry.name}"
        folders = (workspace / FOLDER / TRASH / (f"{stem}-{count}" if count > 1 else stem) for count in range(1, 1000))
        trash = next(folder for folder in folders if not folder.exists())
        now = time.time()
        append({"do": "remove", "key": entry.key, "name": entry.name, "trash": trash.name, "t": now})
        _move(entry.folder, trash)
    return RemovedAdapter(entry.name, entry.key, trash, now)


def _find_active_use(workspace: Path, entry: AdapterEntry) -> Run | None:
    for run in registry.list_runs(workspace, None):
        if is_locked(run.lock):
            with suppress(MlxtuneError, KeyError, TypeError):
                request = launch.read_request(run.folder)
                used = [request.get("adapter"), *request.get("seeds", ())]
                if entry.folder.resolve() in [Path(folder).resolve() for folder in used if folder]:
                    return run
    return None


def removed(workspace: Path) -> list[RemovedAdapter]:
    """Return the adapters in the trash, most recently removed first."""
    items = [item for item in _fold(workspace).removed.values() if item.trash.is_dir()]
    return sorted(items, key=lambda item: item.t, reverse=True)


def restore(workspace: Path, which: str = "last") -> AdapterEntry:
    """Restore the most recently removed adapter, or the most recent one with that name. Raise ``InputError`` if there is none."""
    items = removed(workspace)
    matches = items if which == "last" else [item for item in items if which in (item.name, item.trash.name)]
    if not matches:
        message = f"There is no removed adapter named {one_line(which, 60)}." if items else "No adapter has been removed."
        raise InputError(message, hint=f"Removed adapters: {', '.join(item.name for item in items[:5])}." if items else "")
    item = matches[0]
    folder = workspace / item.key
    with lock_library(workspace) as append:
        if folder.exists():
            raise InputError(f"Another adapter now uses {item.key}.", hint="Remove that adapter first.")
        require_free_name(workspace, item.name)
        append({"do": "restore", "key": item.key, "trash": item.trash.name})
        _move(item.trash, folder)
    return find(workspace, item.key)


def check_name(name: str) -> str:
    """Return ``name`` if it can be an adapter's name, which can become a folder name. Raise ``InputError`` if not."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        hint = "Use up to 64 letters, digits, dots, dashes and underscores, but not base or last."
        raise InputError(f"{one_line(name, 60)!r} is not a valid adapter name.", hint=hint)
    return name


def require_free_name(workspace: Path, name: str, except_key: str = "") -> None:
    """Raise ``InputError`` if an adapter other than ``except_key`` has this name, run or folder."""
    for entry in all_adapters(workspace):
        folder = Path(entry.key).name if entry.key.startswith(FOLDER) else ""
        if entry.key != except_key and name in (entry.name, entry.run, folder):
            raise InputError(f"An adapter named {name} already exists.", hint="Choose another name.")


@contextmanager
def lock_library(workspace: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Lock the library and yield a function that appends a record to its journal. Raise ``MachineError`` if it is locked."""
    folder = workspace / FOLDER
    busy = "Another process is changing the adapter library."
    with file_lock(folder / ".library.lock", busy=busy), Journal(folder / JOURNAL) as journal:
        yield lambda record: journal.append({"v": 1, "t": time.time(), **record}, sync=True)


@contextmanager
def _edit(workspace: Path, which: str) -> Iterator[tuple[AdapterEntry, Callable[[dict[str, Any]], None]]]:
    entry = find(workspace, which)  # fail before any file is created if there is no such adapter
    if entry.folder.parent.name == registry.CHECKPOINTS:
        raise InputError(f"{entry.name} is a checkpoint, which is kept as its run made it.")
    with lock_library(workspace) as append:
        yield find(workspace, which), append


def _keys(workspace: Path) -> list[str]:
    trained = [folder for folder in workspace.glob("runs/*/adapter") if (folder / WEIGHTS).exists()]
    imported = [folder for folder in workspace.glob(f"{FOLDER}/[!.]*") if folder.is_dir()]
    return [folder.relative_to(workspace).as_posix() for folder in (*sorted(trained), *sorted(imported))]


def _fold(workspace: Path) -> _LibraryState:
    state = _LibraryState()
    for record in read(workspace / FOLDER / JOURNAL):
        match record:
            case {"do": "name", "key": str(key), "name": str(name)}:
                state.names[key] = name
            case {"do": "tags", "key": str(key), "tags": list(tags)}:
                state.tags[key] = [name for name in tags if isinstance(name, str)]
            case {"do": "remove", "key": str(key), "name": str(name), "trash": str(trash), "t": int() | float() as t}:
                inside = not Path(key).is_absolute() and ".." not in Path(key).parts
                if inside and trash == Path(trash).name and trash not in ("", ".", ".."):
                    state.removed[trash] = RemovedAdapter(name, key, workspace / FOLDER / TRASH / trash, float(t))
    return state


def _move(folder: Path, target: Path) -> None:
    with disk_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
        sync_folder(target.parent)
