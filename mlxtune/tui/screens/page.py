"""A page over a room: more rows than a section has room for. It scrolls, and stays at its end while it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from mlxtune.tui.draw import Part, key, line, lines, spread
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.section import Section

Rows = Sequence[tuple[Part, ...]]


class Page(ModalScreen[None]):
    """Shows ``rows(width)``, read again at every :meth:`refresh_rows`; only what is in view is assembled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,l,g,f1", "dismiss", "close", id="page.close"),
        Binding("up,k", "scroll(-1)", "up", id="page.up"),
        Binding("down,j", "scroll(1)", "down", id="page.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "a page up", id="page.page-up"),
        Binding("pagedown,space,ctrl+d", "leap(1)", "a page down", id="page.page-down"),
        Binding("home", "edge(False)", "to the first row", id="page.first"),
        Binding("end", "edge(True)", "to the last row", id="page.last"),
    ]

    def __init__(self, title: str, rows: Callable[[int], Rows], *, at_end: bool = False) -> None:
        super().__init__()
        self._heading, self._source = title, rows
        self._at_end, self._first = at_end, 0
        self._rows: Rows = ()

    def compose(self) -> ComposeResult:
        with Vertical(classes="page"):
            yield Section(self._heading, Draw(self._picture, id="rows"), lit=True, classes="fill")
            yield Draw(self._foot, id="foot")

    def show(self) -> None:
        """Read the rows again, because there is news."""
        self.query_one("#rows", Draw).show(self._picture)

    def on_resize(self) -> None:
        self.show()

    def _picture(self, width: int, height: int) -> Content:
        self._rows = self._source(width)
        if height <= 0:
            return Content("")
        last = max(len(self._rows) - height, 0)
        self._first = last if self._at_end else min(self._first, last)
        return lines(*(line(*row).truncate(max(width, 0)) for row in self._rows[self._first : self._first + height]))

    def _foot(self, width: int, _height: int) -> Content:
        shown = line("  ", key("↑↓", "move", "screen.scroll(1)", "$muted"), "   ", key("esc", "close", "screen.dismiss", "$muted"))
        return spread(width, shown, Content(""))

    def _move(self, first: int) -> None:
        last = max(len(self._rows) - self.query_one("#rows").size.height, 0)
        self._first = max(0, min(first, last))
        self._at_end = self._first == last
        self.show()

    def action_scroll(self, by: int) -> None:
        self._move(self._first + by)

    def action_leap(self, by: int) -> None:
        self._move(self._first + by * max(self.query_one("#rows").size.height - 1, 1))

    def action_edge(self, end: bool) -> None:
        self._move(len(self._rows) if end else 0)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move(self._first + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move(self._first - 3)
