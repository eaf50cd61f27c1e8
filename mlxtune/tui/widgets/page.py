"""A page over a room, for content that does not fit in a section."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.actions import parse
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.screen import ModalScreen

from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import key, line
from mlxtune.tui.widgets.frame import NoticeLine, ToastPanel
from mlxtune.tui.widgets.panel import Panel
from mlxtune.tui.widgets.scroll import Rows, ScrollPanel
from mlxtune.tui.widgets.section import Section

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp


class PageScreen(ModalScreen[None]):
    """Shows ``rows(width)``, which every :meth:`redraw` evaluates again, and the app's notices."""

    app: MlxtuneApp

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
            yield from self.compose_body()
            yield NoticeLine(id="answer")
            yield Panel(lambda width, _height: keys.truncate(max(width, 0)), id="foot")
        yield ToastPanel(id="toast")

    def compose_body(self) -> ComposeResult:
        """Yield the page's sections."""
        yield Section(self._heading, self._panel, lit=True, classes="fill")

    def on_mount(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Redraw the rows and the notices."""
        self._panel.set(self._rows)
        self.draw_notices()

    def draw_notices(self) -> None:
        self.query_one(NoticeLine).set(self.app.notices.current)
        self.query_one(ToastPanel).set(self.app.notices.toast)

    def draw_keys(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """Draw those of the keys at the bottom that have an effect now. Each has a name, a label, and an action."""
        possible = (item for item in keys if self.check_action(*parse(item[2])[1:]))
        parts = [part for name, label, action in possible for part in (key(name, label, f"screen.{action}", "$muted"), "   ")]
        self.query_one("#foot", Panel).update(lambda width, _height: line("  ", *parts).truncate(max(width, 0)))

    def refusal(self, action: str) -> Notice | None:
        """Return why one of the page's keys has no effect now."""
        bindings = (binding for items in self._bindings.key_to_bindings.values() for binding in items)
        name = next((binding.description for binding in bindings if binding.action == action), "")
        return Notice("note", f"Not possible now: {name}.") if name else None

    def on_key(self, event: Key) -> None:
        """Close the page and open a room if ``event`` is a room's key. Textual does not run the app's bindings over a modal screen."""
        app_bindings = dict(self._binding_chain)[self.app]
        for binding in app_bindings.key_to_bindings.get(event.key, []):
            if binding.action.startswith("room("):
                event.stop()
                self.dismiss()
                self.app.call_later(self.app.run_action, binding.action)

    def on_resize(self) -> None:
        self.redraw()

    def action_scroll(self, rows: int) -> None:
        self._panel.action_by(rows)

    def action_leap(self, pages: int) -> None:
        self._panel.action_leap(pages)

    def action_edge(self, end: bool) -> None:
        self._panel.action_edge(end)
