"""The adapters of a workspace, without mlx: list, find, compare, name, tag, take away and bring back.

An adapter is a folder: that of a finished run, ``runs/ID/adapter``, or one that was let in, ``adapters/NAME``. What people call them
stands in ``adapters/library.jsonl``, an append-only journal keyed by the folder. Taking one away moves its folder to
``adapters/.trash``; the journal is written before the folder moves, and only folders that are there count, so a crash between the
two leaves an adapter in one place or the other, never in none.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.adapters import entry as entries
from mlxtune.adapters.check import check_name
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import InputError
from mlxtune.core.files import disk_errors, sync_folder
from mlxtune.core.journal import Journal, read
from mlxtune.core.text import nearest, one_line
from mlxtune.evaluation.report import FILE as REPORT
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import registry
from mlxtune.runs.locks import hold, is_held

FOLDER, JOURNAL, TRASH = "adapters", "library.jsonl", ".trash"
_TAG = re.compile(r"[\w][\w.-]{0,31}")


@dataclass(frozen=True)
class Removed:
    """An adapter that was taken away: what it was called, where it stood, where it lies now, and when that was."""

    name: str
    key: str
    trash: Path
    t: float


@dataclass
class _Names:
    """The journal, folded."""

    names: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    removed: dict[str, Removed] = field(default_factory=dict)  # by the folder in the trash


def all_adapters(workspace: Path) -> list[AdapterEntry]:
    """Every adapter of ``workspace``, newest first; those that cannot be read are among them, with their ``problem``."""
    known = _fold(workspace)
    evaluations = [run.folder for run in registry.all_runs(workspace, "eval") if (run.folder / REPORT).is_file()]
    found = []
    for key in _keys(workspace):
        folder = workspace / key
        run = folder.parent.name if key.startswith("runs/") else ""
        name = known.names.get(key) or run or folder.name
        score = entries.newest_score(evaluations, run, folder)
        found.append(entries.read_entry(folder, key, name, tuple(known.tags.get(key, ())), score))
    return sorted(found, key=lambda item: (item.created, item.key), reverse=True)


def find(workspace: Path, which: str) -> AdapterEntry:
    """The adapter meant by ``which``: its name, its run, its folder, a unique part of its name, or ``last``. Raises ``InputError``."""
    found = all_adapters(workspace)
    if not found:
        raise InputError(f"There are no adapters in {workspace}.", mend="Train one: mlxtune train RECIPE")
    if which == "last":
        return found[0]
    asked = os.path.realpath(workspace / which)
    exact = [item for item in found if which in (item.name, item.key) or asked == os.path.realpath(item.folder)]
    exact = exact or [item for item in found if item.run == which or item.key == f"runs/{which}/adapter"]
    chosen = exact or [item for item in found if which and which in item.name]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise InputError(
            f"{one_line(which, 60)} could be any of {', '.join(item.name for item in chosen[:5])}.", mend="Give more of the name."
        )
    hint = nearest(which, [item.name for item in found])
    mend = f"Did you mean {hint}?" if hint else "See them with: mlxtune adapters"
    raise InputError(f"There is no adapter {one_line(which, 60)}.", mend=mend)


def usable(workspace: Path, which: str) -> AdapterEntry:
    """:func:`find`, for whoever is about to load it. Raises ``InputError`` with the reason when it cannot be used."""
    found = find(workspace, which)
    if found.problem:
        raise InputError(f"{found.name} cannot be used: {found.problem}", mend=f"mlxtune adapters show {found.name}")
    return found


def rename(workspace: Path, which: str, name: str) -> AdapterEntry:
    """Call an adapter ``name``; its folder stays where it is. Raises ``InputError`` for a name that cannot be, or is taken."""
    check_name(name)
    with _changing(workspace, which) as (found, tell):
        check_free(workspace, name, beside=found.key)
        tell({"do": "name", "key": found.key, "name": name})
    return find(workspace, found.key)


def tag(workspace: Path, which: str, add: Sequence[str] = (), drop: Sequence[str] = ()) -> AdapterEntry:
    """Give an adapter tags and take others from it. Raises ``InputError`` for what is no tag, or for one that it has not."""
    for word in add:
        if not _TAG.fullmatch(word):
            raise InputError(
                f"{one_line(word, 60)!r} is no tag.", mend="A tag is one word of at most 32 letters, digits, dots and dashes."
            )
    with _changing(workspace, which) as (found, tell):
        if missing := [word for word in drop if word not in found.tags]:
            raise InputError(f"{found.name} has no tag {one_line(missing[0], 60)}.")
        tell({"do": "tags", "key": found.key, "tags": [*dict.fromkeys(word for word in (*found.tags, *add) if word not in drop)]})
    return find(workspace, found.key)


def remove(workspace: Path, which: str) -> Removed:
    """Take an adapter away, so that :func:`restore` can bring it back. Raises ``InputError`` while its run is at work."""
    with _changing(workspace, which) as (found, tell):
        if is_held(found.folder.parent / "run.lock"):
            raise InputError(
                f"{found.run or found.name} is running.", mend=f"Stop it first: mlxtune runs stop {found.run or found.name}"
            )
        trash = _free(workspace / FOLDER / TRASH / f"{time.strftime('%Y%m%d-%H%M%S')}-{found.name}")
        now = time.time()
        tell({"do": "remove", "key": found.key, "name": found.name, "trash": trash.name, "t": now})
        _move(found.folder, trash)
    return Removed(found.name, found.key, trash, now)


def removed(workspace: Path) -> list[Removed]:
    """What was taken away and can be brought back, the last first."""
    there = [item for item in _fold(workspace).removed.values() if item.trash.is_dir()]
    return sorted(there, key=lambda item: item.t, reverse=True)


def restore(workspace: Path, which: str = "last") -> AdapterEntry:
    """Bring back what :func:`remove` took away: the last one, or the last of that name. Raises ``InputError``."""
    there = removed(workspace)
    chosen = there if which == "last" else [item for item in there if which in (item.name, item.trash.name)]
    if not chosen:
        told = f"Nothing called {one_line(which, 60)} was removed." if there else "No adapter was removed."
        raise InputError(told, mend=f"Removed: {', '.join(item.name for item in there[:5])}." if there else "")
    gone = chosen[0]
    place = workspace / gone.key
    with changing(workspace) as tell:
        if place.exists():
            raise InputError(f"{gone.key} is taken by another adapter now.", mend="Rename or remove that one first.")
        check_free(workspace, gone.name)
        tell({"do": "restore", "key": gone.key, "trash": gone.trash.name})
        _move(gone.trash, place)
    return find(workspace, gone.key)


def check_free(workspace: Path, name: str, beside: str = "") -> None:
    """Raises ``InputError`` when another adapter than the one at ``beside`` is called ``name``, or stands in that folder."""
    for item in all_adapters(workspace):
        if item.key != beside and name in (item.name, item.run, Path(item.key).name if item.key.startswith(FOLDER) else ""):
            raise InputError(f"Another adapter is called {name}.", mend="Choose another name.")


def children(workspace: Path, found: AdapterEntry) -> list[AdapterEntry]:
    """The adapters whose training went on from ``found``."""
    place = os.path.realpath(found.folder)
    return [
        item for item in all_adapters(workspace) if item.parent and os.path.realpath(item.parent.folder) == place
    ]  # fmt: skip


def _keys(workspace: Path) -> Iterator[str]:
    for folder in sorted(workspace.glob("runs/*/adapter")):
        if (folder / WEIGHTS).exists():
            yield folder.relative_to(workspace).as_posix()
    for folder in sorted(workspace.glob(f"{FOLDER}/*")):
        if folder.is_dir() and not folder.name.startswith("."):
            yield folder.relative_to(workspace).as_posix()


def _fold(workspace: Path) -> _Names:
    known = _Names()
    for record in read(workspace / FOLDER / JOURNAL):
        match record:
            case {"do": "name", "key": str(key), "name": str(name)}:
                known.names[key] = name
            case {"do": "tags", "key": str(key), "tags": list(words)}:
                known.tags[key] = [word for word in words if isinstance(word, str)]
            case {"do": "remove", "key": str(key), "name": str(name), "trash": str(trash), "t": int() | float() as t}:
                if trash == Path(trash).name and trash not in ("", ".", "..") and _inside(key):
                    known.removed[trash] = Removed(name, key, workspace / FOLDER / TRASH / trash, float(t))
    return known


def _inside(key: str) -> bool:
    return not Path(key).is_absolute() and ".." not in Path(key).parts


@contextmanager
def changing(workspace: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The right to change the library, and ``tell(record)``, which appends to its journal and flushes it.

    Raises ``MachineError`` while another process changes it.
    """
    folder = workspace / FOLDER
    with hold(folder / ".library.lock", busy="The library of adapters is being changed by another process."):
        journal = Journal(folder / JOURNAL)

        def tell(record: dict[str, Any]) -> None:
            journal.append({"v": 1, "t": time.time(), **record})
            journal.sync()

        try:
            yield tell
        finally:
            journal.close()


@contextmanager
def _changing(workspace: Path, which: str) -> Iterator[tuple[AdapterEntry, Callable[[dict[str, Any]], None]]]:
    """:func:`changing`, for the adapter ``which``; where there is none, no file is made."""
    find(workspace, which)
    with changing(workspace) as tell:
        yield find(workspace, which), tell


def _free(folder: Path) -> Path:
    """``folder``, or that name with a number where it is taken."""
    names: Iterable[Path] = (folder if count == 1 else folder.with_name(f"{folder.name}-{count}") for count in range(1, 1000))
    return next(name for name in names if not name.exists())


def _move(folder: Path, target: Path) -> None:
    with disk_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
        sync_folder(target.parent)
