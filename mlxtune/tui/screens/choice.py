"""A question that needs an answer before anything happens: the first option is the safe one, and escape takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from mlxtune.tui.draw import col, fold, key, line
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.pane import ListPane


@dataclass(frozen=True)
class Choice:
    """An option: what choosing it returns, its name, and a few words about it."""

    value: str
    name: str
    about: str = ""


class Choose(ModalScreen[str]):
    """Asks ``title``; dismisses with the value of the choice, or with an empty string on escape."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "close", id="choice.close")]

    def __init__(self, title: str, text: str, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._question, self._text, self._choices = title, text, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Draw(lambda width, _height: line("  ", (self._question, "bold")).truncate(max(width, 0)))
            if self._text:
                yield Draw(lambda width, _height: fold(self._text, width))
            yield ListPane(eager=True, id="choices")
            keys = line(
                "  ", key("enter", "choose", "screen.choose", "$muted"), "   ", key("esc", "close", "screen.dismiss('')", "$muted")
            )
            yield Draw(lambda width, _height: keys.truncate(max(width, 0)))

    def on_mount(self) -> None:
        self.query_one(ListPane).set(len(self._choices), self._row)

    def _row(self, at: int, width: int) -> Content:
        widest = max(len(each.name) for each in self._choices)
        choice = self._choices[at]
        return line(col(choice.name, min(widest, max(width - 12, 4)), "bold"), "   ", (choice.about, "$muted"))

    def action_choose(self) -> None:
        self.query_one(ListPane).action_choose()

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        if self.is_current:
            self.dismiss(self._choices[event.index].value)
