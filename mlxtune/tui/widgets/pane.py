"""Pictures that take the focus: a pane, and a list of any length in which a cursor stands on one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.tui.draw import line, lines
from mlxtune.tui.widgets.draw import Draw

Row = Callable[[int, int], Content]  # an index and a width: the row's content, from column 2 on


class Pane(Draw, can_focus=True):
    """A picture that the focus can stand on. ``about`` is what F1 says of it."""

    def __init__(self, *, about: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.about = about


class ListPane(Pane):
    """``count`` rows of which only those in view are asked for. The cursor's row has the bar in the gutter, a thin one while away.

    A click moves the cursor, and chooses the row where it stands already; with ``eager`` it chooses at once.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", id="list.up"),
        Binding("down,j", "move(1)", "down", id="list.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "a page up", id="list.page-up"),
        Binding("pagedown,ctrl+d", "leap(1)", "a page down", id="list.page-down"),
        Binding("home", "edge(False)", "to the first", id="list.first"),
        Binding("end", "edge(True)", "to the last", id="list.last"),
        Binding("enter", "choose", "open what the cursor stands on", id="list.open"),
    ]

    @dataclass
    class Moved(Message):
        """The cursor stands on another row."""

        pane: ListPane
        index: int

        @property
        def control(self) -> ListPane:
            return self.pane

    @dataclass
    class Chosen(Moved):
        """Enter, or a click on the row where the cursor stood already."""

    def __init__(self, *, about: str = "", eager: bool = False, **kwargs: Any) -> None:
        super().__init__(about=about, **kwargs)
        self._eager = eager
        self.count = 0
        self.cursor = 0
        self._first = 0
        self._row: Row = lambda _index, _width: Content("")
        self._header: Callable[[int], Content] | None = None

    def set(self, count: int, row: Row, *, cursor: int | None = None, header: Callable[[int], Content] | None = None) -> None:
        """Show ``count`` rows as ``row(index, width)`` draws them, under ``header(width)``; ``cursor`` moves the cursor without a word."""
        self.count, self._row, self._header = count, row, header
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        self.show(self._draw)

    @property
    def first(self) -> int:
        """The first row in view."""
        return self._first

    @property
    def cursor_y(self) -> int:
        """The row of the widget on which the cursor stands."""
        return self.cursor - self._first + (1 if self._header else 0)

    def _draw(self, width: int, height: int) -> Content:
        top = [self._header(width)] if self._header else []
        rows = height - len(top) if height > 0 else self.count
        self._first = max(0, min(self._first, self.cursor, self.count - rows), self.cursor - rows + 1)
        return lines(*top, *(self._one(at, width) for at in range(self._first, min(self._first + rows, self.count))))

    def _one(self, at: int, width: int) -> Content:
        here = at == self.cursor
        bar = ("▌ ", "$primary") if self.has_focus else ("▎ ", "$muted")
        row = line(bar if here else "  ", self._row(at, width - 2)).truncate(max(width, 0))
        if not here or not self.has_focus:
            return row
        return line(row, " " * max(width - row.cell_length, 0)).stylize_before("$select-ink on $select")

    def on_focus(self) -> None:
        self.show(self._draw)

    def on_blur(self) -> None:
        self.show(self._draw)

    def go(self, index: int) -> None:
        """Put the cursor on a row, as a key does."""
        index = max(0, min(index, self.count - 1))
        if self.count and index != self.cursor:
            self.cursor = index
            self.show(self._draw)
            self.post_message(self.Moved(self, index))

    def action_move(self, by: int) -> None:
        self.go(self.cursor + by)

    def action_leap(self, by: int) -> None:
        self.go(self.cursor + by * max(self.size.height - 2, 1))

    def action_edge(self, end: bool) -> None:
        self.go(self.count - 1 if end else 0)

    def action_choose(self) -> None:
        if self.count:
            self.post_message(self.Chosen(self, self.cursor))

    async def on_click(self, event: events.Click) -> None:
        at = self._first + event.y - (1 if self._header else 0)
        if self._first <= at < self.count:
            event.stop()
            there = at == self.cursor
            self.go(at)
            if there or self._eager:
                self.action_choose()
        else:
            await super().on_click(event)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.go(self.cursor + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.go(self.cursor - 3)
