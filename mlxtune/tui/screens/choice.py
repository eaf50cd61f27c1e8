"""A question that needs an answer before anything happens: the first option is the safe one, and escape takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from mlxtune.tui.draw import fold, line
from mlxtune.tui.widgets.draw import Draw


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
            yield Draw(lambda width, _height: line((self._question, "bold")).truncate(max(width, 0)))
            if self._text:
                yield Draw(lambda width, _height: fold(self._text, width, indent=""), classes="prose")
            yield OptionList(*(self._option(choice) for choice in self._choices))
            yield Draw(
                lambda _width, _height: line(
                    ("enter", "bold $primary"), (" choose   ", "$muted"), ("esc", "bold $primary"), (" close", "$muted")
                )
            )

    def _option(self, choice: Choice) -> Option:
        widest = max(len(each.name) for each in self._choices)
        return Option(line((choice.name, "bold"), " " * (widest - len(choice.name) + 3), (choice.about, "$muted")))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._choices[event.option_index].value)
