"""Manage the source that the Data, Groups and Review rooms show. They share one session: its filter, cursor and review lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import plural
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import ReviewStep
from mlxtune.present.words import WORDS
from mlxtune.tui.notices import Notice, NoticeKind
from mlxtune.tui.source_session import ORDERS, SourceRef, SourceSession
from mlxtune.workspace.index import RecipeView

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp

_KINDS: Mapping[str, NoticeKind] = {  # of the notices about actions that are not shown as a success
    "reject": "rejected",
    "bad": "rejected",
    "skip": "skipped",
    "mute": "skipped",
    "tie": "tied",
    "edit": "edited",
    "apply": "edited",
}


SOURCE_MODES = ("data", "groups", "review")  # the rooms that show the session


class SessionManager:
    """Opens, shares and closes the session. There is one manager per app."""

    def __init__(self, app: MlxtuneApp) -> None:
        self._app = app
        self.file: SourceRef | None = None  # the file that is open without a recipe
        self.expected_recipe: Path | None = None  # a new one; until it is the current one, the file that is open stays
        self._stamps: object = None
        self._annotator = ""
        self._saved: Mapping[str, Any] = {}  # the filter, order, and row of the last visit, until a session has them
        self.session: SourceSession | None = None

    def save_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"file": str(self.file.path), "map": dict(self.file.map)} if self.file else {}
        if (session := self.session) is None:
            return {**state, **self._saved}
        return {**state, "filter": session.selection.filter, "order": session.selection.order, "row": session.row_index}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`save_state` returned. Raise ``KeyError``, ``TypeError``, ``ValueError``, or ``AttributeError`` if it is invalid."""
        if "file" in state and (path := Path(str(state["file"]))).is_absolute() and path.exists():
            self.open_file(path, {str(key): str(value) for key, value in state["map"].items()})
        if "row" in state:
            order = str(state["order"])
            self._saved = {"filter": str(state["filter"]), "order": order if order in ORDERS else "row", "row": int(state["row"])}

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def redraw(self) -> None:
        if self._app.current_mode in SOURCE_MODES:
            self._app.redraw()

    def open_file(self, path: Path | None, mapping: Mapping[str, str] = NO_MAPPING) -> None:
        """Show a file without a recipe, whose columns ``mapping`` names, or, if ``None``, the current recipe's source."""
        self.file, self.expected_recipe = SourceRef(path, map=tuple(mapping.items())) if path else None, None

    def set_annotator(self, name: str) -> None:
        self._annotator = name
        if self.session is not None:
            self.session.set_annotator(name)

    def session_for(self, view: RecipeView | None) -> SourceSession | None:
        """Return the session for the opened file, or for the source of ``view``.

        A source that changed on disk is reopened once two consecutive calls find it unchanged.
        """
        recipe = view.recipe if view else None
        if view is not None and view.path == self.expected_recipe:
            self.open_file(None)
        ref = self.file
        if ref is None and view is not None and recipe is not None:
            ref = SourceRef(recipe.source, recipe.data.format, tuple(recipe.data.map.items()), recipe, view.path)
        current = self.session
        if current is None or current.ref != ref:
            if current is not None:
                current.close()
            same_rows = current if current and ref and current.ref.row_key == ref.row_key else None
            if current and not same_rows:
                self._app.notices.drop_undo()  # u would undo a decision about the other rows
            self.session = SourceSession(self._app, ref, same_rows, self._annotator) if ref else None
            if self.session is not None and self._saved:
                saved, self._saved = self._saved, {}
                self.session.move_to(saved["row"])
                self.session.select(saved["filter"], saved["order"])
            return self.session
        if (stamps := current.file_stamps()) != current.opened_stamps and stamps == self._stamps:
            current.close()
            self.session = SourceSession(self._app, current.ref, current, self._annotator)
        else:
            current.reload_decisions()
            current.count_missing_tokens()
        self._stamps = stamps
        return self.session


def decision_notice(step: ReviewStep | None, rows: list[int]) -> Notice:
    if step is None:
        return Notice("note", "Nothing changed.")
    text = f"{_subject(step, rows)} {WORDS.decisions[step.action]}."
    return Notice(_KINDS.get(step.action, "done"), text, undo="undo", rooms=SOURCE_MODES)


def undo_or_redo(session: SourceSession, action: str) -> Notice:
    """Undo or redo a decision, move the cursor to its row, and return a notice. Raise any review error."""
    step = session.undo_or_redo(action)
    if step is None:
        return Notice("note", f"Nothing to {action}.")
    rows = session.source.rows_with_keys(after.row for _, after in step.changes)
    if len(rows) == 1:
        session.move_to(rows[0])
    if action == "redo":
        return decision_notice(step, rows)
    why = "" if rows or step.checks else "It was about rows that are not in the source as it is read now."
    return Notice("undone", f"{_subject(step, rows)}: {step.action} undone.", why, undo="redo", rooms=SOURCE_MODES)


def _subject(step: ReviewStep, rows: list[int]) -> str:
    if step.checks:
        return f"Check {step.checks[0]}"
    return f"Row {rows[0] + 1:,}" if len(rows) == 1 else plural(len(step.changes), "row")
