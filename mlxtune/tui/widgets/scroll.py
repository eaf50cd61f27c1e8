"""A panel that scrolls rows."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from mlxtune.tui.render.text import lines
from mlxtune.tui.widgets.panel import FocusPanel

Rows = Sequence[Content]


class ScrollPanel(FocusPanel):
    """Shows ``rows(width)`` and follows the end while it is visible.

    Textual's VerticalScroll lays out all rows on every update; this panel joins only the visible ones, however long the log is.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "by(-1)", "up", id="scroll.up"),
        Binding("down,j", "by(1)", "down", id="scroll.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "page up", id="scroll.page-up"),
        Binding("pagedown,space,ctrl+d", "leap(1)", "page down", id="scroll.page-down"),
        Binding("home", "edge(False)", "first row", id="scroll.first"),
        Binding("end", "edge(True)", "last row", id="scroll.last"),
    ]

    def __init__(self, *, at_end: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rows: Callable[[int], Rows] = lambda _width: ()
        self._parts: tuple[int, list[Content]] | None = None  # the width, and the rows as drawn for it
        self._count, self._first, self._at_end = 0, 0, at_end

    def set(self, rows: Callable[[int], Rows]) -> None:
        """Show ``rows(width)``. They are evaluated again only by another call, or for another width."""
        self._rows, self._parts = rows, None
        self.update(self._draw)

    def _draw(self, width: int, height: int) -> Content:
        if height <= 0:
            return Content("")
        if self._parts is None or self._parts[0] != width:  # a row may be a folded sentence
            self._parts = width, [part for row in self._rows(width) for part in row.split("\n", allow_blank=True)]
        rows = self._parts[1]
        self._count = len(rows)
        last = max(len(rows) - height, 0)
        self._first = last if self._at_end else min(self._first, last)
        return lines(*(row.truncate(max(width, 0)) for row in rows[self._first : self._first + height]))

    def _go(self, first: int) -> None:
        last = max(self._count - self.size.height, 0)
        self._first = max(0, min(first, last))
        self._at_end = self._first == last
        self.update(self._draw)

    def scroll_rows(self, by: int) -> None:
        self._go(self._first + by)

    action_by = scroll_rows

    def action_leap(self, pages: int) -> None:
        self._go(self._first + pages * max(self.size.height - 1, 1))

    def action_edge(self, end: bool) -> None:
        """Scroll to the first row, or to the end and follow it."""
        self._go(self._count if end else 0)
