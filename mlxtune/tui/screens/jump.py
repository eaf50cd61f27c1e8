"""Jump: a letter over everything that can have the focus, and over every tab; pressing it goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widget import Widget

from mlxtune.tui.draw import line
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import LETTERS, tab_places

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp
    from mlxtune.tui.screens.room import Room

# Home row first; a tab's letter is its own capital, so those are left out here.
SPARE = "".join(letter for letter in "sfjklgwoiunmxyzq1234567890" if letter not in "".join(LETTERS.values()).lower())


class Jump(ModalScreen[None]):
    """Lies over ``room`` while a letter is chosen. Any other key, a click or a new size closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,semicolon,ctrl+o", "dismiss", "close", id="jump.close")]

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._panes: dict[str, Widget] = dict(zip(SPARE, room.focus_chain, strict=False))
        self._tabs: dict[str, str] = {LETTERS[name].lower(): name for name in cast("MlxtuneApp", room.app).rooms}
        self._room, self._space = room, room.size

    def compose(self) -> ComposeResult:
        for letter, pane in self._panes.items():
            yield _label(f" {letter}", pane.region.x, pane.region.y)
        places = tab_places(self._room.ROOM, tuple(self._tabs.values()), self._space.width)
        for letter, name in self._tabs.items():
            if name in places:
                yield _label(letter.upper(), places[name], 1)

    def on_key(self, event: events.Key) -> None:
        letter = (event.character or "").lower()
        if letter in self._panes:
            event.stop()
            self._close()
            self._room.set_focus(self._panes[letter])
        elif letter in self._tabs:
            event.stop()
            self._close()
            self.app.call_later(cast("MlxtuneApp", self.app).action_room, self._tabs[letter].lower())

    def on_click(self) -> None:
        self._close()

    def on_resize(self, event: events.Resize) -> None:
        if event.size != self._space:
            self._close()

    def _close(self) -> None:
        if self.is_current:  # two sizes may arrive before the first has closed it
            self.dismiss()


def _label(text: str, x: int, y: int) -> Draw:
    label = Draw(lambda _width, _height: line((text, "bold $background on $primary")), classes="jump")
    label.styles.offset, label.styles.width = (max(x, 0), y), len(text)
    return label
