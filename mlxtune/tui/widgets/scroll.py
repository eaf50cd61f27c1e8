"""Panels that scroll: rows, and one long text in parts."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from mlxtune.tui.render.text import line, lines
from mlxtune.tui.widgets.panel import FocusPanel, movement

Rows = Sequence[Content]


class ScrollPanel(FocusPanel):
    """Shows ``rows(width)`` and follows the end while it is visible.

    Textual's VerticalScroll lays out all rows on every update; this panel joins only the visible ones, however long the log is.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*movement("scroll"), Binding("space", "leap(1)", "page down", id="scroll.page-down")]

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
        return lines(*rows[self._first : self._first + height])

    def _go(self, first: int) -> None:
        last = max(self._count - self.size.height, 0)
        self._first = max(0, min(first, last))
        self._at_end = self._first == last
        self.update(self._draw)

    def scroll_rows(self, by: int) -> None:
        self._go(self._first + by)

    action_move = scroll_rows

    def action_edge(self, end: bool) -> None:
        """Scroll to the first row, or to the end and follow it."""
        self._go(self._count if end else 0)


Lines = tuple[list[Content], list[int]]  # the lines, and the index of the first line of each part


class RowReader(FocusPanel):
    """Shows ``build(width, cursor)``. The up and down keys move from part to part.

    Textual's VerticalScroll has no cursor on parts and does not show how many lines follow.
    """

    BINDINGS: ClassVar[list[BindingType]] = movement("talk")[:4]  # home and end are the room's

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cursor = 0
        self._first = 0
        self._count = 0
        self._build: Callable[[int, int], Lines] = lambda width, cursor: ([], [])

    def set(self, count: int, build: Callable[[int, int], Lines], cursor: int | None = None) -> None:
        """Show ``count`` parts drawn by ``build(width, cursor)``. For another text, pass ``cursor`` to start at the top."""
        self._count, self._build = count, build
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        if cursor is not None:
            self._first = 0
            self._scroll_to_cursor()
        self.update(self._draw)

    def _draw(self, width: int, height: int) -> Content:
        rows, _ = self._build(width, self.cursor if self.has_focus else -1)
        if height <= 0 or len(rows) <= height:
            self._first = 0
            return lines(*rows)
        self._first = max(0, min(self._first, len(rows) - height))
        visible = rows[self._first : self._first + height]
        if below := len(rows) - self._first - height:
            visible[-1] = line((f"    … {below + 1:,} more lines", "$faint"))
        return lines(*visible)

    def _scroll_to_cursor(self) -> None:
        """Scroll the part under the cursor into view, completely if it fits. A longer one starts below the end of the part before it."""
        height = self.size.height
        rows, starts = self._build(self.size.width, self.cursor)
        if height <= 0 or not starts:
            return
        start = starts[self.cursor]
        end = next((other for other in starts if other > start), len(rows))
        last = end - height + (1 if end < len(rows) else 0)  # the lowest first line that shows the part's last one
        self._first = max(0, min(max(self._first, last if last <= start else start - height // 3), start))

    def scroll_rows(self, by: int) -> None:
        self._first = max(self._first + by, 0)
        self.update(self._draw)

    def action_move(self, by: int) -> None:
        cursor = max(0, min(self.cursor + by, self._count - 1))
        if cursor == self.cursor:
            self.action_leap(by)
            return
        self.cursor = cursor
        self._scroll_to_cursor()
        self.update(self._draw)

    on_resize = _scroll_to_cursor
