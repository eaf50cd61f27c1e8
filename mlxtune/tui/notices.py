"""Notices: the outcome of the user's last action, shown above the footer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.present.words import WORDS
from mlxtune.tui.paths import relative_paths

if TYPE_CHECKING:
    from textual.timer import Timer

    from mlxtune.tui.app import MlxtuneApp

BRIEF_SECONDS = 3.0

NoticeKind = Literal["done", "note", "working", "stopped", "warning", "error", "undone", "rejected", "skipped", "tied", "edited"]
NOTICE_MARKS = {kind: (glyph, f"${token}") for kind, (glyph, token) in WORDS.notices.items()}


@dataclass(frozen=True)
class Notice:
    """A sentence and a hint."""

    kind: NoticeKind
    text: str
    hint: str = ""
    undo: str = ""  # the name of the action that undoes what the notice is about
    rooms: Sequence[str] = ()  # that have this action


class Notices:
    """The notice that every screen of the app shows."""

    def __init__(self, app: MlxtuneApp) -> None:
        self._app = app
        self.current: Notice | None = None
        self._timer: Timer | None = None

    def show(self, notice: Notice | None) -> None:
        """Show ``notice`` until the next one or, if nothing is left to do or to undo, for a few seconds. ``None`` clears it."""
        if notice is not None:
            text, hint = (relative_paths(self._app.workspace, part) for part in (notice.text, notice.hint))
            undo = notice.undo if self._app.current_mode in notice.rooms else ""  # the room may have been left
            notice = replace(notice, text=text, hint=hint, undo=undo)
        if self._timer:
            self._timer.stop()
        is_brief = notice is not None and notice.kind in ("done", "note") and not notice.hint and not notice.undo
        self._timer = self._app.set_timer(BRIEF_SECONDS, self.dismiss) if is_brief else None
        self.current = notice
        self._app.redraw()

    def show_error(self, error: MlxtuneError) -> None:
        self.show(Notice("error", one_line(error.message), one_line(error.hint)))

    @contextmanager
    def showing_errors(self) -> Iterator[None]:
        """Show an error that the block raises, and continue after the block."""
        try:
            yield
        except MlxtuneError as error:
            self.show_error(error)

    def dismiss(self) -> None:
        """Remove the notice, unless it says what the app is busy with."""
        if self.current and not self._app.jobs.busy:
            self.show(None)

    def drop(self, *outdated: NoticeKind) -> None:
        """Remove the notice without drawing if its kind is ``outdated``."""
        if self.current and self.current.kind in outdated:
            self.current = None

    def drop_undo(self) -> None:
        """Remove a notice that offers to undo something which is no longer there."""
        if self.current and self.current.undo:
            self.current = None
