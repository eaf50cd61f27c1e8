"""Open a user's own file, map its columns if necessary, and write a recipe for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.content import Content

from mlxtune.core.errors import InputError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line
from mlxtune.data import column_map, scaffold  # they load numpy, which the first screen does not need
from mlxtune.data.column_map import SampleRecords
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.scaffold import Scaffold
from mlxtune.data.source_files import source_files
from mlxtune.present.data_files import scaffold_document
from mlxtune.recipe.edit import edit_recipe
from mlxtune.tui import draw
from mlxtune.tui.mapping_screen import SAMPLE, MappingScreen
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import line, lines
from mlxtune.tui.source_session import SourceRef

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp

Mapped = Callable[[Path, Mapping[str, str]], object]


def choose_file(app: MlxtuneApp, title: str, label: str, then: Callable[[Path], object]) -> None:
    """Ask for a file with rows, and call ``then`` with it."""

    def check(text: str) -> None:
        path = app.workspace / user_path(text)
        if not path.exists():
            raise InputError(f"There is no file {one_line(text, 60)}.")
        source_files(path)

    def chosen(text: str) -> None:
        then((app.workspace / user_path(text)).resolve())

    text = ".jsonl, .json, .csv, .tsv, or a folder with train.jsonl"
    app.ask(title, text, chosen, label=label, check=check, folder=app.workspace)


def open_mapped(app: MlxtuneApp, path: Path, then: Mapped, *, label: str) -> None:
    """Call ``then`` with a file and its column map. Ask for the map if the file needs one."""

    def read(sample: SampleRecords) -> None:
        first = sample.records[0][1]
        if column_map.needs_mapping(first):
            map_columns(app, sample, column_map.guessed_mapping(first), lambda mapping: then(path, mapping), label=label)
        else:
            then(path, NO_MAPPING)

    app.jobs.run(lambda: column_map.first_records(path, SAMPLE), read, busy=f"Reading {one_line(path.name, 60)}.")


def map_columns(
    app: MlxtuneApp, sample: SampleRecords, mapping: Mapping[str, str], then: Callable[[dict[str, str]], Any], *,
    label: str, format: str = "auto",
) -> None:  # fmt: skip
    """Ask how the columns of ``sample`` map to our keys, starting with ``mapping``."""
    app.push_screen(MappingScreen(sample, mapping, format, label=label), lambda answer: None if answer is None else then(answer))


def map_source(app: MlxtuneApp, ref: SourceRef) -> None:
    """Ask how the columns of a source map to our keys, and show it with that map. It is saved in the recipe, if there is one."""

    def chosen(mapping: dict[str, str]) -> None:
        if ref.recipe_path is None:
            app.sessions.open_file(ref.path, mapping)
            app.redraw()
        else:
            app.jobs.run(lambda: _save_mapping(ref, mapping))

    def read(sample: SampleRecords) -> None:
        mapping = dict(ref.map) or column_map.guessed_mapping(sample.records[0][1])
        map_columns(app, sample, mapping, chosen, label="save" if ref.recipe_path else "open", format=ref.format)

    app.jobs.run(lambda: column_map.first_records(ref.path, SAMPLE), read, busy=f"Reading {ref.name}.")


def _save_mapping(ref: SourceRef, mapping: Mapping[str, str]) -> Notice:
    assert ref.recipe_path is not None
    if dict(ref.map) == mapping:
        return Notice("note", "Nothing changed.")
    keys = dict.fromkeys((*dict(ref.map), *mapping))  # None removes a key
    edit_recipe(ref.recipe_path, {f"data.map.{key}": mapping.get(key) for key in keys})
    return Notice("done", f"Saved the map as data.map in {one_line(ref.recipe_path.name, 60)}.")


def open_file(app: MlxtuneApp) -> None:
    """Ask for a file and show its rows in Data, with the recipe that uses them if there is one."""

    def show(path: Path, mapping: Mapping[str, str]) -> None:
        app.sessions.open_file(path, mapping)
        app.action_room("data")
        app.notices.show(Notice("done", f"Opened {one_line(path.name, 60)}.", "c creates a recipe for it."))

    def chosen(path: Path) -> None:
        views = [view for view in app.snapshot.recipes if view.recipe and view.recipe.source.resolve() == path]
        if not views:
            open_mapped(app, path, show, label="open")
            return
        view = app.selection.recipe if app.selection.recipe in views else views[0]
        app.selection.show_recipe(view.path)
        app.action_room("data")
        app.notices.show(Notice("done", f"Opened {one_line(path.name, 60)} with its recipe {one_line(view.path.name, 60)}."))

    choose_file(app, "Open a file", "open", chosen)


def new_recipe(app: MlxtuneApp) -> None:
    """Write a recipe for the file that is open without one, or else for a file that the user chooses."""
    file = app.sessions.file
    if file is None:
        title, label = "New recipe: for which rows?", "continue"
        choose_file(app, title, label, lambda path: open_mapped(app, path, partial(recipe_for, app), label=label))
    elif file.map or file.format != "auto":
        recipe_for(app, file.path, dict(file.map), file.format)
    else:
        open_mapped(app, file.path, partial(recipe_for, app), label="continue")


def recipe_for(app: MlxtuneApp, path: Path, mapping: Mapping[str, str], format: str = "auto") -> None:
    """Guess a recipe for the rows of ``path``, show what was guessed, and write it under the name that the user enters."""

    def show(guessed: Scaffold) -> None:
        def text(width: int, _height: int) -> Content:
            return lines(*(row[2:] for row in draw.rows(scaffold_document(guessed), width)), "", line(("Its name:", "$muted")))

        app.ask(
            f"New recipe for {one_line(path.name, 40)}",
            text,
            lambda name: app.jobs.run(lambda: scaffold.write(guessed, app.workspace, name), written),
            scaffold.default_name(path),
            label="write it",
            check=lambda name: scaffold.new_files(guessed, app.workspace, name, hint="Choose another name."),
        )

    def written(file: Path) -> None:
        app.selection.show_recipe(file)
        app.action_room("data")
        app.notices.show(Notice("done", f"Created recipes/{one_line(file.name, 60)}.", "P plans its run."))

    app.jobs.run(lambda: scaffold.guess(path, mapping, format), show, busy=f"Reading {one_line(path.name, 60)}.")
