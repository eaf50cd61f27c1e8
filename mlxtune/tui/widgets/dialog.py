"""Dialogs: a choice between options, and a prompt for a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from mlxtune.core.text import restore_unsafe, safe_text
from mlxtune.tui.render.text import cell, fold, key, line
from mlxtune.tui.widgets.list import ListPanel
from mlxtune.tui.widgets.panel import Panel

_ESCAPED = {ord("\n"): "␊", ord("\t"): "␉"}  # symbols for a line break and a tab in a single-line field
_UNESCAPED = {ord(symbol): chr(code) for code, symbol in _ESCAPED.items()}


@dataclass(frozen=True)
class ChoiceOption:
    """An option: the value to return, its name, and a short description."""

    value: str
    name: str
    about: str = ""


class ChoiceDialog(ModalScreen[str]):
    """Asks the user to choose an option; the first one is the safe one. Returns its value, or an empty string on escape."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "close", id="choice.close")]

    def __init__(self, title: str, text: str, options: Sequence[ChoiceOption]) -> None:
        super().__init__()
        self._heading, self._text, self._options = title, text, options

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Panel(lambda width, _height: line("  ", (self._heading, "bold")).truncate(max(width, 0)))
            if self._text:
                yield Panel(lambda width, _height: fold(self._text, width))
            yield ListPanel(eager=True, id="choices")
            close = key("esc", "close", "screen.dismiss('')", "$muted")
            keys = line("  ", key("enter", "choose", "screen.choose", "$muted"), "   ", close)
            yield Panel(lambda width, _height: keys.truncate(max(width, 0)))

    def on_mount(self) -> None:
        self.query_one(ListPanel).set(len(self._options), self._row)

    def _row(self, index: int, width: int) -> Content:
        widest = max(len(option.name) for option in self._options)
        option = self._options[index]
        return line(cell(option.name, min(widest, max(width - 12, 4)), "bold"), "   ", (option.about, "$muted"))

    def action_choose(self) -> None:
        self.query_one(ListPanel).action_choose()

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        event.stop()
        if self.is_current:
            self.dismiss(self._options[event.index].value)


class PromptDialog(ModalScreen[str]):
    """Asks the user for a line of text. Returns it, or an empty string on escape.

    ``validate`` returns an error message,  or an empty string. Line breaks and tabs of ``value`` are shown
    as symbols and restored in the result, as are characters that are unsafe to display.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "close", id="ask.close")]

    def __init__(
        self, title: str, text: str, value: str = "", *, label: str = "save", validate: Callable[[str], str] = lambda value: ""
    ) -> None:
        super().__init__()
        self._heading, self._text, self._value, self._label, self._find_error = title, text, value, label, validate

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Panel(lambda width, _height: line((self._heading, "bold")).truncate(max(width, 0)))
            if self._text:
                yield Panel(lambda width, _height: fold(self._text, width, indent=""), classes="prose")
            yield Input(safe_text(self._value).translate(_ESCAPED), compact=True, select_on_focus=False)
            yield Panel(id="wrong", classes="trouble")
            enter = line(("enter", "bold $primary"), (f" {self._label}   ", "$muted"))
            keys = line(enter, ("esc", "bold $primary"), (" close", "$muted"))
            yield Panel(lambda _width, _height: keys)

    def on_mount(self) -> None:
        self.query_one("#wrong").display = False

    def on_input_changed(self) -> None:
        self.query_one("#wrong").display = False

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        value = restore_unsafe(self._value, event.value.translate(_UNESCAPED)).strip()
        error = self._find_error(value) if value else ""
        if not error:
            self.dismiss(value)
            return
        panel = self.query_one("#wrong", Panel)
        panel.display = True
        panel.update(lambda width, _height: line(("✗ ", "bold $error"), fold(error, width, "  ", "")[2:]))
