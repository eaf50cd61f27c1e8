"""The base class of the Data and Review rooms: the session, undo and redo, changing the recipe, and importing rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line, plural
from mlxtune.data.review import Action as ReviewAction
from mlxtune.data.rows import Row, row_tags
from mlxtune.tui.actions import Action
from mlxtune.tui.generate_flow import choose_task
from mlxtune.tui.notices import Notice
from mlxtune.tui.open_flow import ask_for_map
from mlxtune.tui.paths import relative_paths, unused
from mlxtune.tui.render.source import source_unavailable
from mlxtune.tui.render.text import invitation, key, line, lines, marked
from mlxtune.tui.room import OTHER_RECIPE, Room
from mlxtune.tui.session_manager import SOURCE_MODES, decision_notice, undo_or_redo
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import ChoiceOption
from mlxtune.workspace.index import Snapshot

if TYPE_CHECKING:
    from mlxtune.data.transforms.pipeline import Pipeline

UNDO = Action(
    "undo", "u", "undo", "undo the decision",
    when="session.source.state.steps",
    why="Nothing to undo.",
    command="data review {source} --undo",
)  # fmt: skip
REDO = Action(
    "redo", "U,ctrl+r", "redo", "redo the decision",
    when="session.source.state.undone_steps",
    why="Nothing to redo.",
    command="data review {source} --redo",
)  # fmt: skip
SOURCE_ACTIONS = (
    OTHER_RECIPE,
    Action("import_rows", "i", "import",
           command="data import FILE --out data/NAME.jsonl"),
    Action("generate", "w", "write", "let a teacher write rows", when="can_generate", why="These rows have no recipe.",
           needs_accelerator=True, command="data generate {recipe}"),
)  # fmt: skip
_INLINE_ROWS = 200  # maximum rows for which undo and redo run in the event loop


class SourceRoom(Room):
    """A room that shows the rows of a source."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn_session: SourceSession | None = None

    @property
    def session(self) -> SourceSession | None:
        """The displayed session, once its source is open and has rows."""
        session = self.app.sessions.session
        return session if session is not None and session.error is None and session.has_rows else None

    @property
    def open_session(self) -> SourceSession:
        """The displayed session, for an action that is possible only with one."""
        assert self.session is not None
        return self.session

    def draw(self, snapshot: Snapshot) -> None:
        session = self.app.sessions.session_for(self.app.selection.recipe)
        if session is not self._drawn_session:
            self._drawn_session = session
            self.change_session(session)
        ready = self.session
        self.invite(None if ready else lambda width, _height: self._draw_unavailable(session, width))
        if ready is not None:
            self.draw_source(ready)

    def change_session(self, session: SourceSession | None) -> None:
        """Prepare for another source, or for another version of it: record numbers and marks are those of the one before."""
        self.clear_marks()

    def draw_source(self, session: SourceSession) -> None:
        """Draw the rows of a session."""

    @property
    def row_under_cursor(self) -> int | None:
        return self.session.row_index if self.session else None

    @property
    def row(self) -> Row | None:
        """The row under the cursor with its edits; ``None`` if the record is not a valid row."""
        session, index = self.session, self.row_under_cursor
        return None if session is None or index is None else session.source.lazy_row(index).current_or_none

    def command_fields(self) -> Mapping[str, str]:
        row, session = self.row, self.app.sessions.session
        source = {"source": str(session.ref.recipe_path or session.ref.path)} if session else {}
        return {"row": row.id, **source} if row else source

    def copyable(self) -> tuple[str, str]:
        row = self.row
        return (json.dumps(row.content, ensure_ascii=False), "the row") if row else ("", "")

    def on_unmount(self) -> None:
        self.app.sessions.close()

    def on_screen_suspend(self) -> None:
        if self.app.current_mode not in SOURCE_MODES and (session := self.app.sessions.session):
            session.release_lock()

    def _draw_unavailable(self, session: SourceSession | None, width: int) -> Content:
        if session is not None:
            return source_unavailable(session, self.app.workspace, self.mode == "data", width)
        view, choose = self.app.selection.recipe, "choose a recipe" if self.app.snapshot.recipes else "open a file"
        keys = key("i", "import rows", "screen.import_rows"), key("o", choose, "app.choose_recipe")
        if view and view.error:
            error = relative_paths(self.app.workspace, view.error)
            return lines(*marked("✗", "$error", error, width), "", line("  ", keys[0], "   ", keys[1]))
        return invitation(width, "No rows selected.", *keys)

    @property
    def is_filtered(self) -> bool:
        return self.session is not None and bool(self.session.selection.filter.strip())

    @property
    def can_generate(self) -> bool:
        """Whether a teacher can write rows: the rows are a recipe's, and nothing else runs."""
        view, session = self.app.selection.recipe, self.app.sessions.session
        of_recipe = view is not None and view.recipe is not None and session is not None and session.ref.recipe is not None
        return of_recipe and self.app.runs.can_start

    def action_generate(self) -> None:
        """Ask what to generate. Variations are based on the rows that are marked, filtered, or in the current group."""
        session = self.app.sessions.session
        if session is None or session.ref.recipe_path is None:
            return
        rows: tuple[str, ...] = ()
        what = "the training rows"
        source = session.browser
        if source is not None and self.has_chosen_rows(session):
            chosen, title = self.chosen_rows(session)
            rows = tuple(row.id for index in chosen if (row := source.lazy_row(index).current_or_none))
            what = f"the {title}"
        choose_task(self.app, session.ref.recipe_path, rows, what)

    def decide(self, action: ReviewAction, **more: Any) -> bool:
        """Record a decision on the marked rows, or else on the current one, and show a notice. Return whether it was possible."""
        session = self.session
        if session is None or self.app.jobs.refuse_if_busy():
            return False
        if marked := self.marked_rows:
            self.decide_rows(session, action, marked, **more)
            return True
        index = session.row_index
        with self.app.notices.showing_errors():
            self.app.notices.show(decision_notice(session.decide(action, [index], **more), [index]))
            return True
        return False

    def decide_rows(self, session: SourceSession, action: ReviewAction, rows: Sequence[int], **more: Any) -> None:
        busy = f"Applying {action} to {plural(len(rows), 'row')}."
        self.record_changes(lambda: decision_notice(session.decide(action, rows, **more), list(rows)), busy)

    def record_changes(self, job: Callable[[], Notice], busy: str) -> None:
        """Record decisions in a thread, unmark all rows, and show a notice. Keys that are typed meanwhile act on the result."""
        if self.app.jobs.run(job, busy=busy, holds_keys=True):
            self.clear_marks()

    @property
    def marked_rows(self) -> list[int]:
        return []

    def clear_marks(self) -> None:
        """Unmark all rows."""

    def has_chosen_rows(self, session: SourceSession) -> bool:
        """Return whether :meth:`chosen_rows` are not simply all rows."""
        return bool(self.marked_rows or session.selection.filter.strip())

    def chosen_rows(self, session: SourceSession) -> tuple[list[int], str]:
        """Return the rows for a decision on many rows, ascending, and how they were selected: marked, filtered or all rows."""
        if marked := self.marked_rows:
            return marked, f"{plural(len(marked), 'marked row')}"
        rows = session.matching_rows()
        return rows, f"{plural(len(rows), 'row')}{' that match the filter' if session.selection.filter.strip() else ''}"

    def action_transform(self) -> None:
        """Ask for a pipeline, and apply it to the marked rows, or else to all displayed rows."""
        from mlxtune.data.transforms.preview import active_rows
        from mlxtune.tui.transform_dialog import TransformDialog

        session = self.open_session
        chosen, title = self.chosen_rows(session)
        rows = active_rows(session.source, chosen)
        history = [step.reason for step in session.source.state.steps if step.action == "apply"]

        def apply(pipeline: Pipeline | None) -> None:
            if pipeline is not None:
                busy = f"Changing {plural(len(rows), 'row')}."
                self.record_changes(lambda: decision_notice(session.apply(pipeline, rows), []), busy)

        self.app.push_screen(TransformDialog(session, rows, f"Change: {title}", history), apply)

    def action_undo(self) -> None:
        self._undo_or_redo("undo")

    def action_redo(self) -> None:
        self._undo_or_redo("redo")

    def _undo_or_redo(self, action: str) -> None:
        if self.app.jobs.refuse_if_busy():
            return
        session, state = self.open_session, self.open_session.source.state
        newest = (state.steps if action == "undo" else state.undone_steps)[-1:]
        if newest and len(newest[0].changes) > _INLINE_ROWS:
            busy = f"{plural(len(newest[0].changes), 'row')}: {action}."
            self.app.jobs.run(lambda: undo_or_redo(session, action), busy=busy, holds_keys=True)
            return
        with self.app.notices.showing_errors():
            self.app.notices.show(undo_or_redo(session, action))

    def action_tag(self) -> None:
        session = self.open_session
        known = ", ".join(one_line(tag, 20) for tag in self.known_tags(session))
        marked = self.marked_rows or [session.row_index]
        what = f"row {marked[0] + 1:,}" if len(marked) == 1 else f"{len(marked):,} marked rows"
        self.app.ask(f"Tag or untag {what}", f"In use: {known}" if known else "", self.toggle_tag, label="tag")

    def known_tags(self, session: SourceSession) -> list[str]:
        return [tag for tag, _ in session.source.tags.most_common(9)]

    def toggle_tag(self, tag: str) -> None:
        """Add a tag to the marked rows, or else to the current one, or remove it if all of them have it."""
        if (session := self.session) is not None:
            rows = [session.source.lazy_row(index).current_or_none for index in self.marked_rows or [session.row_index]]
            self.decide("tag", **{"remove" if all(row and tag in row_tags(row) for row in rows) else "add": [tag]})

    def action_import_rows(self) -> None:
        text = "A file, a folder, or a Hugging Face dataset such as owner/name."
        self.app.ask("Import rows", text, self.import_rows, label="import", folder=Path.cwd())

    def import_rows(self, name: str) -> None:
        """Import the rows of a file or dataset into the workspace and show them. Ask for a column map if the file needs one."""
        from mlxtune.data.importer import locate

        def located(path: Path) -> None:
            own = path == user_path(name) and path.resolve().is_relative_to(self.app.workspace.resolve())
            if own and path.suffix == ".jsonl":
                self.app.sessions.open_file(path)  # a copy would have other lines, and no review
                self.app.notices.show(Notice("done", f"Opened {one_line(path.name, 40)}, which is in this workspace."))
            else:
                ask_for_map(self.app, path, lambda answer: self._import_file(path, answer.mapping), if_needed=True, label="import")

        self.app.notices.show(Notice("working", f"Importing {one_line(name, 60)}."))
        self.run_job(lambda: locate(name), located)

    def _import_file(self, path: Path, mapping: Mapping[str, str], skip_bad: bool = False) -> None:
        """Import the rows of a file, whose columns ``mapping`` names. If some are invalid, ask whether to skip them."""
        from mlxtune.data.importer import BadRowsError, ImportResult, import_rows

        def job() -> ImportResult:
            stem = path.stem if path.is_file() else path.name
            return import_rows(path, unused(self.app.workspace / "data" / f"{stem}.jsonl"), mapping=mapping, skip_bad=skip_bad)

        def imported(result: ImportResult) -> None:
            self.app.sessions.open_file(result.out)
            left = f", {plural(len(result.bad), 'invalid row')} skipped" if result.bad else ""
            text = f"Imported {plural(result.rows, 'row')} to data/{one_line(result.out.name, 40)}{left}."
            self.app.notices.show(Notice("done", text, "Set data.source in a recipe to train on it."))

        def failed(error: MlxtuneError) -> None:
            if not isinstance(error, BadRowsError):
                self.app.notices.show_error(error)
                return
            self.app.notices.show(None)
            options = [ChoiceOption(None, "Cancel", "fix the file first"), ChoiceOption("skip", "Skip them", "import the rest")]
            message = "\n".join(one_line(row, 110) for row in error.message.splitlines()[1:])
            title = f"{plural(error.count, 'row')} cannot be used"
            self.app.choose(title, options, lambda _: self._import_file(path, mapping, skip_bad=True), message)

        columns = ["--map", ",".join(f"{key}={column}" for key, column in mapping.items())] if mapping else []
        out = self.app.workspace / "data" / f"{path.stem}.jsonl"
        self.app.commands.add("data", "import", path, "--out", out, *columns, *(["--skip-bad"] if skip_bad else []))
        self.app.notices.show(Notice("working", f"Importing {one_line(path.name, 60)}."))
        self.run_job(job, imported, failed)
