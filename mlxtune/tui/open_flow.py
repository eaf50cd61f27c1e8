"""Open a user's own file, map its columns if necessary, and write a recipe for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen

from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line, plural
from mlxtune.data import column_map, scaffold  # they load numpy, which the first screen does not need
from mlxtune.data.column_map import SampleRecords
from mlxtune.data.readers.columns import columns
from mlxtune.data.readers.formats import KEYS, NO_MAPPING, parse
from mlxtune.data.rows import Row, RowError
from mlxtune.data.scaffold import Scaffold
from mlxtune.data.source_files import source_files
from mlxtune.present.data_files import recipe_document
from mlxtune.present.words import WORDS
from mlxtune.recipe.edit import edit_recipe
from mlxtune.tui import draw
from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import unused
from mlxtune.tui.render.source import turn_rows
from mlxtune.tui.render.text import cell, error_rows, line, lines, paragraph
from mlxtune.tui.source_session import SourceRef
from mlxtune.tui.widgets import ListPanel, Panel, Section

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp


SAMPLE = 100  # records that the map is tried on
_SHOWN = 3  # rows
_MAX_PREVIEW = 400  # characters of a value or a turn
_NUMBERED = WORDS.row_keys  # keys that a digit assigns, and what they mean
_ORDER = (*_NUMBERED, *(key for key in KEYS if key not in _NUMBERED))


@dataclass(frozen=True)
class MappedFile:
    """The map from our keys to columns, and the recipe to write under ``name`` if there is one."""

    mapping: dict[str, str]
    recipe: Scaffold | None = None
    name: str = ""


class MappingScreen(HasActions, ModalScreen[MappedFile | None]):
    """Asks which columns of ``sample`` hold our keys and, if it ``writes_recipe``, proposes one for the rows as they are mapped.

    Returns ``None`` on escape.
    """

    GROUP = "mapping"
    ACTIONS = (
        Action("accept", "enter", lambda screen: screen.label, bound=False),
        Action("rename", "e", "rename", when="writes_recipe"),
        Action("open", "o", "rows only", "open without a recipe", when="writes_recipe"),
        *(
            Action(f"assign({digit})", str(digit), help=f"{name}: {about}", id=f"key-{digit}")
            for digit, (name, about) in enumerate(_NUMBERED.items(), 1)
        ),
        Action("cycle(1)", "right,l", "next key", "next free key", id="next"),
        Action("cycle(-1)", "left,h", help="previous free key", id="previous"),
        Action("assign(0)", "backspace,0", "clear", "no key", id="clear"),
        Action("dismiss(None)", "escape", "close", id="close"),
    )  # fmt: skip

    def __init__(
        self,
        sample: SampleRecords,
        mapping: Mapping[str, str],
        format: str = "auto",
        *,
        label: str = "open",
        writes_recipe: bool = False,
    ) -> None:
        super().__init__()
        self._sample, self._format, self.label, self.writes_recipe = sample, format, label, writes_recipe
        self._guessed: Scaffold | MlxtuneError | None = None  # the recipe, or why there is none; None while it is being guessed
        self._recipe_name = ""  # of the recipe
        self._is_accepted = False  # enter was pressed before the recipe was guessed
        self._mapping = dict(mapping)  # from our keys to columns
        self._columns: dict[str, Any] = {}  # with the first value that is not empty
        for _, record in sample.records:
            for name, value in columns(record):
                if not self._columns.get(name):
                    self._columns[name] = value
        self._rows = self._read()

    def _read(self) -> list[Row | RowError]:
        """Read the sample with the map: for each record, a row, or the reason why there is none."""
        rows: list[Row | RowError] = []
        for location, record in self._sample.records:
            try:
                rows.append(parse(record, location, self._format, self._mapping))
            except RowError as error:
                rows.append(error)
        return rows

    @property
    def _formats(self) -> Counter[str]:
        """The number of valid rows in each format."""
        return Counter(row.format for row in self._rows if not isinstance(row, RowError))

    def compose(self) -> ComposeResult:
        with Vertical(classes="page"):
            with Horizontal(id="mapping"):
                yield Section("Columns", ListPanel(id="columns"), id="columns-side", classes="fill")
                yield Section("Keys", Panel(id="keys"), id="keys-side", classes="fill")
            with Horizontal(id="proposal"):
                yield Section("Rows", Panel(id="mapped"), id="mapped-side", classes="fill")
                if self.writes_recipe:
                    yield Section("Recipe", Panel(id="recipe"), id="recipe-side", classes="fill")
            yield Panel(lambda _width, _height: self.key_row(), id="foot")

    def on_mount(self) -> None:
        if self.writes_recipe:
            self._recipe_name = unused(self.app.workspace / "recipes" / f"{scaffold.default_name(self._sample.path)}.toml").stem
            self._guess()
        self._draw()

    def _guess(self) -> None:
        path, mapping, format = self._sample.path, dict(self._mapping), self._format

        def show(guessed: Scaffold | MlxtuneError) -> None:
            if self.is_attached:
                self._guessed = guessed
                self._draw()
                if self._is_accepted:
                    self.action_accept()

        self._guessed = None
        self.app.jobs.run(lambda: scaffold.guess(path, mapping, format), show, show, group="recipe")

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # Drawing

    def _draw(self) -> None:
        if not self.is_attached:
            return
        names, formats = list(self._columns), self._formats
        screen = self.app.size.height
        most = screen // 2 - 2
        self.query_one("#mapping").styles.height = min(max(len(names), len(self._shown_keys)), most) + (3 if screen >= 30 else 1)
        self.query_one(ListPanel).set(len(names), lambda index, width: self._column(names[index], width))
        title = f"Columns of {one_line(self._sample.path.name, 40)}"
        self.query_one("#columns-side", Section).head.set(title=title, note=f"{len(names)}")
        self.query_one("#keys", Panel).update(lambda width, _height: lines(*(self._key(name, width) for name in self._shown_keys)))
        shown = (", ".join(formats) or "none yet", "bold" if formats else "$warning")
        self.query_one("#keys-side", Section).head.set(note=line(("format ", "$muted"), shown))
        valid, total = formats.total(), len(self._rows)
        what = f"the first {total:,} rows" if self._sample.total > total else plural(total, "row")
        glyph, style = ("✓", "$success") if valid == total else ("!", "$warning") if valid else ("✗", "$error")
        note = line((f"{glyph} ", f"bold {style}"), (f"{valid:,} of {what} can be used", "$muted"))
        self.query_one("#mapped-side", Section).head.set(note=note)
        self.query_one("#mapped", Panel).update(self._draw_rows)
        if self.writes_recipe:
            self.query_one("#recipe-side", Section).head.set(note=(f"recipes/{one_line(self._recipe_name, 40)}.toml", "bold"))
            self.query_one("#recipe", Panel).update(lambda width, _height: self._draw_recipe(width))

    def _draw_recipe(self, width: int) -> Content:
        match self._guessed:
            case None:
                return paragraph("Reading the answers.", width)
            case MlxtuneError() as error:
                return lines(*error_rows(error, width))
            case guessed:
                return lines(*draw.rows(recipe_document(guessed, self._recipe_name), width))

    @property
    def _shown_keys(self) -> list[str]:
        return [name for name in _ORDER if name in _NUMBERED or self._column_of(name)]

    def _column_of(self, name: str) -> str:
        """Return the column of a key: the mapped one, or the one with the same name. Empty if there is none."""
        if name in self._mapping:
            return self._mapping[name]
        return name if name in self._columns and name not in self._mapping.values() else ""

    def _key_of(self, column: str) -> str:
        mapped = next((name for name, own in self._mapping.items() if own in (column, f"{column}[]")), "")
        return mapped or (column if column in KEYS and self._column_of(column) == column else "")

    def _column(self, name: str, width: int) -> Content:
        room = max(min(max(len(one) for one in self._columns), 24, width // 2), 6)
        key_name = self._key_of(name)
        room_key = max((len(self._key_of(one)) for one in self._columns), default=0)
        value = self._columns[name]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        column = cell(one_line(name, 60), room, "bold" if key_name else "")
        start = line(column, " ", cell(key_name, room_key, "$primary"), "  " if room_key else " ")
        return line(start, cell(one_line(text[: 4 * _MAX_PREVIEW], _MAX_PREVIEW), width - room - room_key - 3, "$muted"))

    def _key(self, name: str, width: int) -> Content:
        digit = str(list(_NUMBERED).index(name) + 1) if name in _NUMBERED else " "
        column = self._column_of(name)
        about = (one_line(column, 60), "bold") if column else (_NUMBERED.get(name, ""), "$faint")
        shown = line("  ", (digit, "bold $primary"), "  ", cell(name, 14, "$primary" if column else "$muted"), about)
        return shown.truncate(max(width, 0), ellipsis=True)

    def _draw_rows(self, width: int, height: int) -> Content:
        shown = self._rows[:_SHOWN]
        gap = [Content("")] if height >= 4 * _SHOWN else []
        share = max((height - len(gap) * (len(shown) - 1)) // max(len(shown), 1), 1)
        result: list[Content] = []
        for number, row in enumerate(shown, 1):
            own = turn_rows(row, width - 4, share)
            labels = (cell(f"{'' if at else number}", 4, "$muted", right=True) for at in range(share))
            result += [*(gap if result else []), *map(line, labels, own)]
        return lines(*result)

    # Actions

    @property
    def _current(self) -> str:
        return self.query_one(ListPanel).pick(list(self._columns)) or ""

    def action_assign(self, digit: int) -> None:
        self._assign(self._current, ["", *_NUMBERED][digit])

    def action_cycle(self, by: int) -> None:
        """Give the column the next key that no other column has, or none."""
        own = self._key_of(self._current)
        names = ["", *(name for name in _ORDER if name == own or not self._column_of(name))]
        self._assign(self._current, names[(names.index(own) + by) % len(names)])

    def _assign(self, column: str, name: str) -> None:
        """Map the key ``name`` to ``column`` and to no other. An empty ``name``, or the key that the column already has, clears the mapping."""
        if not column:
            return
        repeated = self._mapping.get(name) == column
        self._mapping = {own: other for own, other in self._mapping.items() if own != name and other != column}
        if name and name != column and not repeated:
            self._mapping[name] = column
        self._rows = self._read()
        if self.writes_recipe:
            self._guess()
        self._draw()

    def action_accept(self) -> None:
        self._is_accepted = bool(self._formats) and self.writes_recipe and self._guessed is None
        if self._formats and not self.writes_recipe:
            self.dismiss(MappedFile(self._mapping))
        elif self._formats and isinstance(self._guessed, Scaffold):
            self.dismiss(MappedFile(self._mapping, self._guessed, self._recipe_name))
        elif not self._is_accepted:
            self.app.bell()

    def action_open(self) -> None:
        if self._formats:
            self.dismiss(MappedFile(self._mapping))

    def action_rename(self) -> None:
        if not isinstance(guessed := self._guessed, Scaffold):
            return

        def named(name: str) -> None:
            self._recipe_name = name
            self._draw()

        def check(name: str) -> None:
            scaffold.new_files(guessed, self.app.workspace, name, hint="Choose another name.")

        self.app.ask("Name of the recipe", "", named, self._recipe_name, label="rename", select=True, check=check)

    on_list_panel_chosen = action_accept


def choose_file(app: MlxtuneApp, title: str, label: str, then: Callable[[Path], object]) -> None:

    def check(text: str) -> None:
        path = app.workspace / user_path(text)
        if not path.exists():
            raise InputError(f"There is no file {one_line(text, 60)}.")
        source_files(path)

    def chosen(text: str) -> None:
        then((app.workspace / user_path(text)).resolve())

    text = ".jsonl, .json, .csv, .tsv, or a folder with train.jsonl"
    app.ask(title, text, chosen, label=label, check=check, folder=app.workspace)


def ask_for_map(
    app: MlxtuneApp, path: Path, then: Callable[[MappedFile], None], mapping: Mapping[str, str] = NO_MAPPING, format: str = "auto",
    *, if_needed: bool = False, **options: Any,
) -> None:  # fmt: skip
    """Propose a map of the columns of ``path``, which may not need one, ``mapping`` if there is one, and call ``then`` with the answer."""

    def read(sample: SampleRecords) -> None:
        if if_needed and not column_map.needs_mapping(sample.records[0][1]):
            then(MappedFile({}))
            return
        screen = MappingScreen(sample, mapping or column_map.proposed_mapping(sample), format, **options)
        app.push_screen(screen, lambda answer: then(answer) if answer else None)

    busy = f"Reading {one_line(path.name, 60)}."
    app.jobs.run(lambda: column_map.first_records(path, SAMPLE), read, busy=busy, holds_keys=True)


def map_source(app: MlxtuneApp, ref: SourceRef) -> None:
    """Ask how the columns of a source map to our keys, and show it with that map. It is saved in the recipe, if there is one."""

    def chosen(answer: MappedFile) -> None:
        if ref.recipe_path is None:
            app.sessions.open_file(ref.path, answer.mapping)
            app.redraw()
        else:
            app.jobs.run(lambda: _save_mapping(ref, answer.mapping))

    ask_for_map(app, ref.path, chosen, dict(ref.map), ref.format, label="save" if ref.recipe_path else "open")


def _save_mapping(ref: SourceRef, mapping: Mapping[str, str]) -> Notice:
    assert ref.recipe_path is not None
    if dict(ref.map) == mapping:
        return Notice("note", "Nothing changed.")
    keys = dict.fromkeys((*dict(ref.map), *mapping))  # None removes a key
    edit_recipe(ref.recipe_path, {f"data.map.{key}": mapping.get(key) for key in keys})
    return Notice("done", f"Saved the map as data.map in {one_line(ref.recipe_path.name, 60)}.")


def open_file(app: MlxtuneApp) -> None:
    """Ask for a file and show its rows in Data, with the recipe that uses them or, if there is none, with a new one."""

    def chosen(path: Path) -> None:
        views = [view for view in app.snapshot.recipes if view.recipe and view.recipe.source.resolve() == path]
        if not views:
            propose_recipe(app, path)
            return
        view = app.selection.recipe if app.selection.recipe in views else views[0]
        app.selection.show_recipe(view.path)
        app.action_room("data")
        app.notices.show(Notice("done", f"Opened {one_line(path.name, 60)} with its recipe {one_line(view.path.name, 60)}."))

    choose_file(app, "Open a file", "open", chosen)


def new_recipe(app: MlxtuneApp) -> None:
    """Propose a recipe for the file that is open without one, or else for a file that the user chooses."""
    if file := app.sessions.file:
        propose_recipe(app, file.path, dict(file.map), file.format)
    else:
        choose_file(app, "New recipe: for which rows?", "continue", lambda path: propose_recipe(app, path))


def propose_recipe(app: MlxtuneApp, path: Path, mapping: Mapping[str, str] = NO_MAPPING, format: str = "auto") -> None:
    """Propose the columns, the recipe, and the contract for the rows of ``path`` in one dialog. Write them, or open only the rows."""

    def chosen(answer: MappedFile) -> None:
        if (recipe := answer.recipe) is not None:
            columns = ["--map", ",".join(f"{key}={column}" for key, column in answer.mapping.items())] if answer.mapping else []
            app.commands.add("init", "--from", path, "--name", answer.name, *columns)
            hint = "f fixes the rows that cannot be used." if any(recipe.unreadable.values()) else "P plans its run."
            write = partial(scaffold.write, recipe, app.workspace, answer.name)
            app.jobs.run(write, partial(written, hint), busy=f"Creating recipes/{answer.name}.toml.", holds_keys=True)
            return
        app.sessions.open_file(path, answer.mapping)
        app.action_room("data")
        app.notices.show(Notice("done", f"Opened {one_line(path.name, 60)}.", "n creates a recipe for it."))

    def written(hint: str, file: Path) -> None:
        app.selection.show_recipe(file)
        app.action_room("data")
        app.notices.show(Notice("done", f"Created recipes/{one_line(file.name, 60)}.", hint))

    ask_for_map(app, path, chosen, mapping, format, label="create", writes_recipe=True)
