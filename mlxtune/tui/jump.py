"""Jump mode, which shows a letter on every focusable panel and every tab. Pressing a letter jumps to it."""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widget import Widget

from mlxtune.tui.render.text import line
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import Panel
from mlxtune.tui.widgets.frame import tab_places

_TABS = {entry.key.lower(): mode for mode, entry in ROOMS.items() if not entry.inside}
# The letters for panels, home row first, without the letters of the tabs.
_LETTERS = "".join(letter for letter in "sfjklgwoiunmxyzq1234567890" if letter not in _TABS)


class JumpScreen(ModalScreen[None]):
    """Covers ``room`` while the user chooses a letter. Any other key, a click or a resize closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,semicolon,ctrl+o", "dismiss", "close", id="jump.close")]

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._widgets: dict[str, Widget] = dict(zip(_LETTERS, room.focus_chain, strict=False))
        self._room, self._room_size = room, room.size

    def compose(self) -> ComposeResult:
        for letter, widget in self._widgets.items():
            yield _label(f" {letter}", widget.region.x, widget.region.y)
        for mode, column in tab_places(self._room.mode, self._room_size.width).items():
            yield _label(ROOMS[mode].key, column, 1)

    def on_key(self, event: events.Key) -> None:
        letter = (event.character or "").lower()
        if letter in self._widgets:
            event.stop()
            self._close()
            self._room.set_focus(self._widgets[letter])
        elif letter in _TABS:
            event.stop()
            self._close()
            self.app.call_later(self._room.app.action_room, _TABS[letter])

    def on_resize(self, event: events.Resize) -> None:
        if event.size != self._room_size:
            self._close()

    def _close(self) -> None:
        if self.is_current:  # another event may have closed it
            self.dismiss()

    on_click = _close


def _label(text: str, x: int, y: int) -> Panel:
    label = Panel(lambda _width, _height: line((text, "bold $background on $primary")), classes="jump")
    label.styles.offset, label.styles.width = (max(x, 0), y), len(text)
    return label
