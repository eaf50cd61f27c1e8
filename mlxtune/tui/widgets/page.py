"""A page over a room, for content that does not fit in a section."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Key
from textual.screen import ModalScreen

from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.render.text import key_line
from mlxtune.tui.widgets.frame import NoticeLine
from mlxtune.tui.widgets.panel import Panel, Section
from mlxtune.tui.widgets.scroll import Rows, ScrollPanel


class PageScreen(HasActions, ModalScreen[None]):
    """Shows ``rows(width)``, which every :meth:`redraw` evaluates again, and the app's notices."""

    GROUP = "page"
    ACTIONS: ClassVar[Sequence[Action]] = (
        Action("copy", "ctrl+y", help="copy the text"),
        Action("dismiss", "escape,q,L,g", help="close", id="close"),
    )

    def __init__(self, title: str, rows: Callable[[int], Rows] = lambda _width: (), *, at_end: bool = False) -> None:
        super().__init__()
        self._heading, self._rows, self._panel = title, rows, ScrollPanel(at_end=at_end, id="rows")

    def compose(self) -> ComposeResult:
        keys = key_line(("↑↓", "move", "focused.move(1)"), ("^y", "copy", "screen.copy"), ("esc", "close", "screen.dismiss"))
        with Vertical(classes="page"):
            yield from self.compose_body()
            yield NoticeLine(id="answer")
            yield Panel(lambda _width, _height: keys, id="foot")

    def compose_body(self) -> ComposeResult:
        yield Section(self._heading, self._panel, lit=True, classes="fill")

    def redraw(self) -> None:
        """Draw the content and the notices, unless the page is closing."""
        if self.is_mounted and self.query("#foot"):
            self.draw()
            self.query_one(NoticeLine).set(self.app.notices.current)

    on_mount = on_resize = redraw

    def draw(self) -> None:
        self._panel.set(self._rows)

    def action_copy(self) -> None:
        self.app.copy("\n".join(row.plain.rstrip() for row in self._rows(self._panel.size.width)), self._heading)

    def draw_keys(self) -> None:
        keys = self.key_row()
        self.query_one("#foot", Panel).update(lambda _width, _height: keys)

    def on_key(self, event: Key) -> None:
        """Close the page and open the room or the other page whose key was pressed: Textual ignores the app's bindings over a page."""
        for action in self.app.ACTIONS:
            names = self.app.key_changes.get(action.binding_id(self.app.GROUP), action.key)
            if action.call[0] in ("room", "page") and event.key in names.split(",") and event.key not in self.active_bindings:
                event.stop()
                self.dismiss()
                self.app.call_later(self.app.run_action, action.name)
