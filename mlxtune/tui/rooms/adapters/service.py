"""The Adapters room's service: the adapter library with every string safe to show."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from mlxtune.adapters import library
from mlxtune.adapters.compare import facts
from mlxtune.adapters.entry import AdapterEntry, AdapterScore
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.formats import FORMATS, ExportFormat, copy_adapter, copy_folder
from mlxtune.adapters.export.tried import ExportedCopy, FailedExport, TriedExport, exported_copies, failed_export, tried_exports
from mlxtune.core.errors import InputError
from mlxtune.core.files import display_path
from mlxtune.core.text import one_line, one_line_fields, size
from mlxtune.tui.paths import relative_paths
from mlxtune.workspace import control


@dataclass(frozen=True)
class AdapterView:
    """An adapter in the library. ``score`` is ``None`` until it has been evaluated; ``problem`` says why it is unusable."""

    key: str
    name: str
    base: str
    kind: str
    created: float
    size: str
    tags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    parent: str
    children: tuple[str, ...]
    score: AdapterScore | None
    problem: str
    exports: tuple[TriedExport, ...] = ()
    copies: tuple[ExportedCopy, ...] = ()
    failed_export: FailedExport | None = None  # the last export, if it failed


@dataclass(frozen=True)
class LibraryView:
    """All adapters, newest first, and the names of the removed ones, most recently removed first."""

    adapters: tuple[AdapterView, ...] = ()
    removed: tuple[str, ...] = ()


def read_library(workspace: Path) -> LibraryView:
    """Read the adapter library of ``workspace``."""
    entries = library.all_adapters(workspace)
    children: dict[str, list[str]] = {}
    for entry in entries:
        if entry.parent:
            children.setdefault(os.path.realpath(entry.parent.folder), []).append(one_line(entry.name))
    views = (_view(workspace, entry, tuple(children.get(os.path.realpath(entry.folder), ()))) for entry in entries)
    return LibraryView(tuple(views), tuple(one_line(item.name) for item in library.removed(workspace)))


def parse_tags(text: str) -> list[str]:
    """Split ``text`` into tags; words that begin with a dash are dropped."""
    return list(dict.fromkeys(word for word in text.split() if not word.startswith("-")))


def set_tags(workspace: Path, key: str, text: str) -> None:
    """Replace an adapter's tags with those in ``text``. Raise ``InputError``."""
    tags = parse_tags(text)
    library.tag(workspace, key, tags, [tag for tag in library.find(workspace, key).tags if tag not in tags])


def about_format(one: ExportFormat) -> str:
    """Return the description of a format, after the package that it needs if that is not installed."""
    package = exports.missing_package(one.form)
    return f"needs {package}; {one.about}" if package else one.about


def about_exports(workspace: Path, key: str) -> str:
    """Return what an export does, and on how many rows it is compared with the adapter. Raise ``RecipeError`` for an invalid recipe."""
    recipe, _ = exports.run_recipe(library.find_usable(workspace, key))
    where = "mlxtune's off-task prompts"
    if recipe:
        rows = recipe.evaluation.rows
        where = (
            f"at most {rows:,} held-out rows (evaluation.rows)" if rows else "all held-out rows (evaluation.rows can limit them)"
        )
    return (
        f"The export is compared with the adapter on {where}, which takes two to three times as "
        "long as evaluating one arm, and is kept unless it undoes the tuning. "
        f"{' and '.join(one.label for one in FORMATS if one.copy)} only copy the adapter."
    )


def export(workspace: Path, key: str, chosen: ExportFormat, precision: str = "", ollama_base: str = "") -> str:
    """Copy an adapter, or start the worker that exports it. Return the folder of the copy or of the run.

    Raise ``InputError``, and other errors of :func:`~mlxtune.adapters.export.start.start`.
    """
    entry = library.find_usable(workspace, key)
    if chosen.form is None:
        folder = copy_folder(workspace, entry, chosen)
        if folder.exists():
            raise InputError(f"{folder.relative_to(workspace)} already exists.", hint="Remove or rename it first.")
        return copy_adapter(workspace, entry, chosen, folder)[0].relative_to(workspace).as_posix()
    run = control.export(workspace, entry, chosen, precision=cast("exports.Precision", precision or "f16"), ollama_base=ollama_base)
    return run.folder.relative_to(workspace).as_posix()


def _view(workspace: Path, entry: AdapterEntry, children: tuple[str, ...]) -> AdapterView:
    known = {} if entry.problem else facts(entry)
    return AdapterView(
        key=entry.key,
        name=one_line(entry.name),
        base=one_line(entry.base),
        kind=one_line(f"{known.get('kind', '')} {entry.rank or ''}".strip()),
        created=entry.created,
        size=size(entry.size) if entry.size else "",
        tags=tuple(one_line(tag) for tag in entry.tags),
        facts=tuple((name, one_line(value)) for name, value in known.items() if value and name not in ("parent", "tags")),
        parent=one_line(entry.parent.run or entry.parent.folder) if entry.parent else "",
        children=children,
        score=one_line_fields(entry.score),
        problem=relative_paths(workspace, one_line(entry.problem)),
        exports=one_line_fields(
            tuple(
                replace(
                    export,
                    target=Path(display_path(export.target, workspace)),
                    commands=tuple(relative_paths(workspace, command) for command in export.commands),
                )
                for export in tried_exports(entry)
            )
        ),
        copies=one_line_fields(
            tuple(replace(copy, folder=Path(display_path(copy.folder, workspace))) for copy in exported_copies(entry))
        ),
        failed_export=one_line_fields(failed_export(entry)),
    )
