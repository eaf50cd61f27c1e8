"""A pane of rows that can be longer than it is: it stays at its end while it is there, and page keys go through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content

from mlxtune.tui.draw import Part, line, lines
from mlxtune.tui.widgets.pane import Pane

Rows = Sequence[tuple[Part, ...]]


class Scroll(Pane):
    """Shows ``rows(width)``; only what is in view is assembled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "by(-1)", "up", id="scroll.up"),
        Binding("down,j", "by(1)", "down", id="scroll.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "a page up", id="scroll.page-up"),
        Binding("pagedown,ctrl+d", "leap(1)", "a page down", id="scroll.page-down"),
    ]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._source: Callable[[int], Rows] = lambda _width: ()
        self._count, self._first, self._at_end = 0, 0, True

    def set(self, rows: Callable[[int], Rows]) -> None:
        """Show ``rows(width)``."""
        self._source = rows
        self.show(self._draw)

    def end(self) -> None:
        """Go to the end, and stay there."""
        self._at_end = True
        self.show(self._draw)

    def _draw(self, width: int, height: int) -> Content:
        rows = self._source(width)
        self._count = len(rows)
        last = max(len(rows) - max(height, 0), 0)
        self._first = last if self._at_end else min(self._first, last)
        return lines(*(line(*row).truncate(max(width, 0)) for row in rows[self._first : self._first + max(height, 1)]))

    def _move(self, by: int) -> None:
        last = max(self._count - self.size.height, 0)
        self._first = max(0, min(self._first + by, last))
        self._at_end = self._first == last
        self.show(self._draw)

    def action_by(self, rows: int) -> None:
        self._move(rows)

    def action_leap(self, pages: int) -> None:
        self._move(pages * max(self.size.height - 1, 1))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move(-3)
