"""A page over a room, for content that does not fit in a section."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from mlxtune.tui.render.text import key, line
from mlxtune.tui.widgets.panel import Panel
from mlxtune.tui.widgets.scroll import Rows, ScrollPanel
from mlxtune.tui.widgets.section import Section


class PageScreen(ModalScreen[None]):
    """Shows ``rows(width)``, which every :meth:`redraw` evaluates again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,l,g", "dismiss", "close", id="page.close"),
        Binding("up,k", "scroll(-1)", "up", id="page.up"),
        Binding("down,j", "scroll(1)", "down", id="page.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "page up", id="page.page-up"),
        Binding("pagedown,space,ctrl+d", "leap(1)", "page down", id="page.page-down"),
        Binding("home", "edge(False)", "first row", id="page.first"),
        Binding("end", "edge(True)", "last row", id="page.last"),
    ]

    def __init__(self, title: str, rows: Callable[[int], Rows], *, at_end: bool = False) -> None:
        super().__init__()
        self._heading, self._rows = title, rows
        self._panel = ScrollPanel(at_end=at_end, id="rows")
        self._panel.can_focus = False  # it scrolls with the page's own keys, which settings can change

    def compose(self) -> ComposeResult:
        keys = line("  ", key("↑↓", "move", "screen.scroll(1)", "$muted"), "   ", key("esc", "close", "screen.dismiss", "$muted"))
        with Vertical(classes="page"):
            yield Section(self._heading, self._panel, lit=True, classes="fill")
            yield Panel(lambda width, _height: keys.truncate(max(width, 0)), id="foot")

    def on_mount(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Redraw the rows."""
        self._panel.set(self._rows)

    def draw_keys(self, keys: Iterable[tuple[bool, str, str, str]]) -> None:
        """Draw the keys at the bottom. Each has a flag for whether it is available, its name, its label, and its action."""
        parts = [part for possible, name, label, action in keys if possible for part in (key(name, label, action, "$muted"), "   ")]
        self.query_one("#foot", Panel).update(lambda width, _height: line("  ", *parts).truncate(max(width, 0)))

    def on_resize(self) -> None:
        self.redraw()

    def action_scroll(self, rows: int) -> None:
        self._panel.action_by(rows)

    def action_leap(self, pages: int) -> None:
        self._panel.action_leap(pages)

    def action_edge(self, end: bool) -> None:
        self._panel.action_edge(end)
