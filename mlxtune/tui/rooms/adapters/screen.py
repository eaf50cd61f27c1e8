"""Adapters: the library of this workspace, with each adapter's lineage and verdict, and the actions on it."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.formats import FORMATS, ExportFormat, copy_adapter, copy_folder
from mlxtune.adapters.export.start import PRECISIONS, SMALLER, SMALLEST, require_packages
from mlxtune.adapters.importers.importer import import_adapter
from mlxtune.adapters.library import AdapterComparison, compare
from mlxtune.core.errors import InputError
from mlxtune.core.files import file_stamp, user_path
from mlxtune.core.sequences import grouped
from mlxtune.core.text import age, one_line, one_line_fields, plural, size
from mlxtune.present.adapter import EVALUATE, AdapterDetail, adapter_document, brief, comparison_document, kind, score_mark
from mlxtune.present.card import adapter_card
from mlxtune.present.labels import GLYPHS, percent
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui import draw
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import base_name, relative_paths
from mlxtune.tui.render.text import RECIPE_KEY, Part, cell, cut_middle, cut_rows, invitation, key, line
from mlxtune.tui.room import Room
from mlxtune.tui.widgets import ChoiceOption, Invitation, ListPanel, PageScreen, Panel, Section
from mlxtune.workspace.index import Snapshot


@dataclass(frozen=True)
class LibraryView:
    """All adapters, newest first, and the names of the removed ones, most recently removed first."""

    adapters: tuple[AdapterDetail, ...] = ()
    removed: tuple[str, ...] = ()


def read_library(workspace: Path) -> LibraryView:
    entries = library.all_adapters(workspace)
    children = grouped((os.path.realpath(one.parent.folder), one_line(one.name)) for one in entries if one.parent)
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


class AdaptersRoom(Room):
    """A list of adapters next to the details of the one under the cursor."""

    ABOUT = "adapters and their evaluations"
    CSS_PATH = "style.tcss"
    SIDE = "#adapters-side"
    RUN_KIND = "export"
    SAVED: ClassVar = {"key": str}
    ACTIONS = (
        Action("use", "o", "chat", "chat with it", when="usable_adapter", command="chat {adapter}"),
        Action("detail", "g", "details", when="usable_adapter", late="wide",
               command="adapters show {adapter}"),
        Action("compare", "c", "compare", "compare two adapters",
               when=lambda room: room.usable_adapter and sum(not one.entry.problem for one in room._adapters) > 1, why="No other adapter.",
               command="adapters compare OTHER {adapter}"),
        Action("export", "w", "export", "fuse or export", when="usable_adapter",
               command="export FORMAT {adapter}"),
        Action("stop", "s", "stop", when=lambda room: room.running("export"), why="No export running.",
               command="runs stop EXPORT"),
        Action("remove", "x", "remove", when="adapter", command="adapters remove {adapter}"),
        Action("undo", "u", "undo", "restore the last one", when="library.removed", why="Nothing was removed.",
               command="adapters restore"),
        Action("rename", "e", "rename", when="usable_adapter", command="adapters rename {adapter} NAME"),
        Action("tag", "t", "tag", "edit its tags", when="usable_adapter", command="adapters tag {adapter} TAG"),
        Action("import", "i", "import", "import a folder", command="adapters import FOLDER"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.library: LibraryView | None = None
        self._inputs: object = None  # the facts that the library was read for
        self.key = ""  # the adapter under the cursor, which stays on it when the library changes

    def compose_body(self) -> ComposeResult:
        yield Invitation("Adapters")
        with Horizontal(id="adapters-columns"):
            yield Section("Adapters", ListPanel(id="adapters-list"), classes="fill", id="adapters-all")
            yield Section("Adapter", Panel(id="adapters-detail"), classes="fill", id="adapters-side")

    @property
    def _adapters(self) -> tuple[AdapterDetail, ...]:
        return self.library.adapters if self.library else ()

    @property
    def _detail(self) -> AdapterDetail | None:
        return self.query_one("#adapters-list", ListPanel).pick(self._adapters)

    @property
    def adapter(self) -> AdapterEntry | None:
        return self._detail.entry if self._detail else None

    def command_fields(self) -> Mapping[str, str]:
        adapter = self.adapter
        return {"adapter": str(self.app.workspace / adapter.key)} if adapter else {}

    def copyable(self) -> tuple[str, str]:
        adapter = self.adapter
        return (str(self.app.workspace / adapter.key), "the adapter's folder") if adapter else ("", "")

    @property
    def usable_adapter(self) -> AdapterEntry | None:
        adapter = self.adapter
        return adapter if adapter and not adapter.problem else None

    def draw(self, snapshot: Snapshot) -> None:
        ended = [view.id for view in (*snapshot.runs, *snapshot.evals, *snapshot.exports) if not view.alive]
        folder, exports = self.app.workspace / library.FOLDER, self.app.workspace / RUN_KINDS["export"].folder
        files = (folder, folder / library.JOURNAL, exports)  # other programs change them, too
        inputs = ended, *map(file_stamp, files)
        if inputs != self._inputs:
            self._inputs = inputs
            self._read()
        found, adapters, active = self.library, self._adapters, self.app.adapter
        if found is None or not adapters:
            keys = (
                key("T", "train one", "app.room('train')") if snapshot.recipes else RECIPE_KEY,
                key("i", "import one", "screen.import"),
                key("u", f"restore {found.removed[0]}", "screen.undo") if found and found.removed else None,
            )
            self.invite(lambda width, _: invitation(width, "No adapters yet.", *keys) if found else Content(""))
            return
        self.invite(None)
        cursor = next((index for index, adapter in enumerate(adapters) if adapter.entry.key == self.key), None)

        def select(index: int) -> None:
            self.key = adapters[index].entry.key
            self.redraw()

        self.query_one("#adapters-list", ListPanel).set(
            len(adapters),
            lambda index, width: list_row(adapters[index], adapters[index].entry.key == active, snapshot.now, width),
            header=list_header,
            cursor=cursor,
            on_move=select,
        )
        bases = {base_name(adapter.entry.base) for adapter in adapters if adapter.entry.base}
        on = f" on {next(iter(bases))}" if len(bases) == 1 else f" on {len(bases)} bases" if bases else ""
        self.section("#adapters-all").head.set(note=f"{len(adapters):,}{on}")
        if adapter := self._detail:
            self.key = adapter.entry.key
            detail = partial(draw_detail, adapter, evaluating=self._evaluating)
            more = ("g", "all details", "screen.detail")
            self.section("#adapters-side").show(
                lambda width, height: cut_rows(detail(width), height, more), title=adapter.entry.name, note=kind(adapter.entry)
            )

    @property
    def _evaluating(self) -> bool:
        return self.running("eval") is not None

    def _read(self) -> None:
        self.run_job(partial(read_library, self.app.workspace), self._show_library)

    def _show_library(self, view: LibraryView) -> None:
        self.library = view

    def on_list_panel_chosen(self) -> None:
        if self.wide:
            self.action_use()
        else:
            self.action_detail()

    def action_use(self) -> None:
        if adapter := self.usable_adapter:
            self.app.adapter = self.app.adapter_to_load = adapter.key
            self.redraw()
            self.app.action_room("chat")

    def action_detail(self) -> None:
        if adapter := self._detail:
            self.app.push_screen(PageScreen(adapter.entry.name, partial(draw_detail, adapter, evaluating=self._evaluating)))

    def action_compare(self) -> None:
        adapter, workspace = self.usable_adapter, self.app.workspace
        if adapter is None:
            return
        others = [one.entry for one in self._adapters if not one.entry.problem and one.entry.key != adapter.key]

        def job(key: str) -> AdapterComparison:
            return compare(workspace, library.find_usable(workspace, key), library.find_usable(workspace, adapter.key))

        def show(compared: AdapterComparison) -> None:
            self.app.push_screen(PageScreen("Comparison", lambda width: draw.rows(comparison_document(compared), width)))

        options = [ChoiceOption(other.key, other.name, brief(other)) for other in others]
        title = f"Compare {adapter.name} with which adapter?"
        self.app.choose(title, options, lambda key: self.run_job(partial(job, key), show))

    def action_rename(self) -> None:
        if adapter := self.adapter:

            def check(name: str) -> None:
                library.check_name(name)
                library.require_free_name(self.app.workspace, name, except_key=adapter.key)

            def rename(name: str) -> None:
                if name != adapter.name:
                    write = partial(library.rename, self.app.workspace, adapter.key, name)
                    self.app.commands.add("adapters", "rename", adapter.name, name)
                    self._change(write, f"{adapter.name} is now named {name}.")

            self.app.ask(f"Rename {adapter.name}", "", rename, adapter.name, select=True, check=check)

    def action_tag(self) -> None:
        if adapter := self.adapter:

            def tag(text: str) -> None:
                tags = ", ".join(parse_tags(text))
                write = partial(set_tags, self.app.workspace, adapter.key, text)
                dropped = [word for old in adapter.tags if old not in parse_tags(text) for word in ("--drop", old)]
                self.app.commands.add("adapters", "tag", adapter.name, *parse_tags(text), *dropped)
                self._change(write, f"{adapter.name} is tagged {tags}." if tags else f"{adapter.name} has no tags.")

            about = "Separate tags with spaces; a dash removes all."
            self.app.ask(
                f"Tags of {adapter.name}", about, tag, " ".join(adapter.tags),
                check=lambda text: library.check_tags(parse_tags(text)),
            )  # fmt: skip

    def action_export(self) -> None:
        """Ask for a format. While the accelerator is in use, offer only those that do not need it, and say why."""
        if (adapter := self.usable_adapter) is None:
            return

        def job() -> str:
            self.app.runs.require_accelerator()
            return about_exports(self.app.workspace, adapter.key)

        def ask_for_copy(text: str, hint: str) -> None:
            about = one_line(f"{text} {hint} Until then, the adapter can only be copied.")
            self._ask_for_format(adapter, [one for one in FORMATS if one.copy], about)

        in_use = self.app.runs.in_use
        if in_use and not self.app.jobs.busy:
            ask_for_copy(in_use.text, in_use.hint)
            return
        self.app.jobs.run(
            job,
            lambda about: self._ask_for_format(adapter, FORMATS, about),
            lambda error: ask_for_copy(error.message, error.hint),
            busy="",
            holds_keys=True,
        )

    def _ask_for_format(self, adapter: AdapterEntry, formats: Sequence[ExportFormat], about: str) -> None:
        def chosen(one: ExportFormat) -> None:
            with self.app.notices.showing_errors():
                require_packages(one.form)
                start = partial(self._start_export, adapter, one)
                if tried := one.form and SMALLER.get(one.form):
                    precisions = PRECISIONS if one.form == "gguf" else {"": "not quantized"}
                    options = [ChoiceOption(str(name), name or about, about) for name, about in precisions.items()]
                    options.append(ChoiceOption(SMALLEST, SMALLEST, f"the first of {', '.join(tried)} that holds on held-out rows"))
                    self.app.choose("In which precision?", options, lambda name: start(precision=name))
                elif one.program == "ollama":
                    about = "The name of the adapter's base in Ollama, such as llama3.2:3b."
                    self.app.ask("Add it to which model?", about, lambda name: start(ollama_base=name), label="export")
                else:
                    start()

        options = [ChoiceOption(None, "Cancel", "nothing is written")]
        for one in formats:
            needs = f"needs {package}; " if (package := exports.missing_package(one.form)) else ""
            options.append(ChoiceOption(one, one.label, f"{needs}{one.about}"))
        self.app.choose(f"Export {adapter.name}?", options, chosen, about)

    def _start_export(self, adapter: AdapterEntry, chosen: ExportFormat, **how: str) -> None:
        def job() -> Notice:
            folder = one_line(export(self.app.workspace, adapter.key, chosen, **how))
            if chosen.copy:
                return Notice("done", f"Wrote {adapter.name}.", f"It is in {folder}.")
            return Notice("working", f"Exporting {adapter.name} to {folder}.", "s stops it, and the details show the result.")

        names = {"precision": "--precision", "ollama_base": "--from"}
        options = ["--smallest" if value == SMALLEST else f"{names[name]}={value}" for name, value in how.items() if value]
        self.app.commands.add("export", *chosen.label.split(), adapter.name, *options)
        start = self.app.jobs.run if chosen.copy else self.app.runs.start_worker
        start(job, busy=f"Starting the export of {adapter.name}.")

    def action_remove(self) -> None:
        if detail := self._detail:
            key, count = detail.entry.key, len(detail.children)
            children = f" {plural(count, 'adapter was', 'adapters were')} trained from it." if count else ""
            self.app.commands.add("adapters", "remove", detail.entry.name)
            self._change(lambda: library.remove(self.app.workspace, key), f"Removed {detail.entry.name}.{children}", "undo")

    def action_undo(self) -> None:
        if self.library and self.library.removed:
            self.app.commands.add("adapters", "restore")
            self._change(lambda: library.restore(self.app.workspace), f"Restored {self.library.removed[0]}.")

    def action_import(self) -> None:
        def answered(text: str) -> None:
            folder = user_path(text)
            self.app.commands.add("adapters", "import", folder)
            self._change(lambda: import_adapter(self.app.workspace, folder), f"Imported {one_line(folder.name)}.")

        def check(text: str) -> None:
            if not user_path(text).is_dir():
                raise InputError("This folder does not exist.")

        about = "A folder in mlx-lm or PEFT layout, which is copied."
        self.app.ask("Import an adapter", about, answered, check=check)

    def _change(self, write: Callable[[], object], message: str, undo: str = "") -> None:
        """Change the library in a background thread, read it again, and show ``message``."""
        workspace = self.app.workspace

        def job() -> LibraryView:
            write()
            return read_library(workspace)

        def changed(view: LibraryView) -> None:
            self._show_library(view)
            self._read()  # a read that began before the change may still be running
            self.app.notices.show(Notice("done", message, undo=undo, rooms=("adapters",)))

        self.app.jobs.run(job, changed, busy="", holds_keys=True)


KIND, SIZE, OUTCOME, RATE, AGE = 8, 8, 17, 7, 7  # widths of the list's columns
WIDE = 72  # minimum width, in cells, to show the rate column


def list_header(width: int) -> Content:
    cells = [
        cell("adapter", _name_width(width)), cell("kind", KIND), cell("size", SIZE, right=True), cell("  verdict", OUTCOME),
        *([cell("rate", RATE, right=True)] if width >= WIDE else []), cell("age", AGE, right=True),
    ]  # fmt: skip
    return line("    ", *cells).stylize("$faint")


def list_row(adapter: AdapterDetail, active: bool, now: float, width: int) -> Content:
    """Draw one row of the list, starting at column 2. ``active`` marks the adapter that Chat uses."""
    width += 2
    entry, (mark, outcome) = adapter.entry, score_mark(adapter.entry)
    score = entry.score
    tags = ((f" {tag}", "$muted") for tag in entry.tags)
    room = _name_width(width) - 1
    is_long = cell_len(entry.name) > room  # then a run's name loses its date, which the age also tells
    short = cut_middle(re.sub(r"^\d{8}-(?=\d{4}-)", "", entry.name), room) if is_long else entry.name
    name = cell(line((short, "bold"), *tags, (" ● in use", "$primary") if active else ""), room)
    glyph = GLYPHS[mark] if score or entry.problem else "○"
    start: list[Part] = [(glyph, f"bold ${mark}"), " ", name, " "]
    if entry.problem:
        return line(*start, cell(relative_paths(entry.workspace, entry.problem), width - 6 - name.cell_length, "$error"))
    verdict = cell(f"  {outcome}", OUTCOME, "" if score else "$muted")
    cells = [cell(kind(entry), KIND, "$muted"), cell(size(entry.size), SIZE, "$muted", right=True), verdict]
    if width >= WIDE:
        cells.append(cell(percent(score.changes[-1][1].share) if score and score.changes else "", RATE, right=True))
    return line(*start, *cells, cell(age(max(now - entry.created, 0)), AGE, "$faint", right=True))


def _name_width(width: int) -> int:
    return max(width - 6 - KIND - SIZE - OUTCOME - (RATE if width >= WIDE else 0) - AGE, 10)


def draw_detail(adapter: AdapterDetail, width: int, *, evaluating: bool = False) -> list[Content]:
    """Draw an adapter without its name. ``evaluating``: an evaluation, perhaps of another adapter, is running."""
    evaluate = key("E", "watch the running evaluation" if evaluating else "evaluate it", "app.room('evaluate')")
    return draw.rows(adapter_document(adapter)[1:], width, {EVALUATE: evaluate})
