"""The Adapters room's service: the adapter library with every string safe to show."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.formats import ExportFormat, copy_adapter, copy_folder
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, one_line_fields
from mlxtune.present.adapter import AdapterDetail
from mlxtune.present.card import adapter_card


@dataclass(frozen=True)
class LibraryView:
    """All adapters, newest first, and the names of the removed ones, most recently removed first."""

    adapters: tuple[AdapterDetail, ...] = ()
    removed: tuple[str, ...] = ()


def read_library(workspace: Path) -> LibraryView:
    entries = library.all_adapters(workspace)
    children: dict[str, list[str]] = {}
    for entry in entries:
        if entry.parent:
            children.setdefault(os.path.realpath(entry.parent.folder), []).append(one_line(entry.name))
    views = (_detail(entry, tuple(children.get(os.path.realpath(entry.folder), ()))) for entry in entries)
    return LibraryView(tuple(views), tuple(one_line(item.name) for item in library.removed(workspace)))


def _detail(entry: AdapterEntry, children: tuple[str, ...]) -> AdapterDetail:
    detail: AdapterDetail = one_line_fields(AdapterDetail.read(entry, children))
    return replace(detail, entry=replace(detail.entry, key=entry.key))


def parse_tags(text: str) -> list[str]:
    """Split ``text`` into tags; words that begin with a dash are dropped."""
    return list(dict.fromkeys(word for word in text.split() if not word.startswith("-")))


def set_tags(workspace: Path, key: str, text: str) -> None:
    tags = parse_tags(text)
    library.tag(workspace, key, tags, [tag for tag in library.find(workspace, key).tags if tag not in tags])


def about_format(one: ExportFormat) -> str:
    """Return the description of a format, after the package that it needs if that is not installed."""
    package = exports.missing_package(one.form)
    return f"needs {package}; {one.about}" if package else one.about


def about_exports(workspace: Path, key: str) -> str:
    """Return on how many rows an export is compared with the adapter. Raise ``RecipeError`` for an invalid recipe."""
    recipe, _ = exports.run_recipe(library.find_usable(workspace, key))
    where = "the off-task prompts"
    if recipe:
        rows = recipe.evaluation.rows
        where = f"{rows:,} held-out rows" if rows else "all held-out rows"
    return f"Then compared with the adapter on {where}: 2–3× the time of one arm."


def export(workspace: Path, key: str, chosen: ExportFormat, precision: str = "", ollama_base: str = "") -> str:
    """Copy an adapter, or start the worker that exports it. Return the folder of the copy or of the run.

    Raise ``InputError``, and other errors of :func:`~mlxtune.adapters.export.start.start`.
    """
    entry = library.find_usable(workspace, key)
    if chosen.form is None:
        folder = copy_folder(workspace, entry, chosen)
        if folder.exists():
            raise InputError(f"{folder.relative_to(workspace)} already exists.", hint="Remove or rename it first.")
        return copy_adapter(workspace, entry, chosen, adapter_card, folder)[0].relative_to(workspace).as_posix()
    own = exports.precision_of(precision)
    run = exports.start(workspace, entry, chosen.form, precision=own, program=chosen.program, ollama_base=ollama_base)
    return run.folder.relative_to(workspace).as_posix()
