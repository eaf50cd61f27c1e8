"""A question that is answered with a line of text: enter takes it, escape leaves things as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from mlxtune.core.text import restored, safe_text
from mlxtune.tui.draw import fold, line
from mlxtune.tui.widgets.draw import Draw

SIGNS = {ord("\n"): "␊", ord("\t"): "␉"}  # what stands for a sign that a field of one row has no room for
MEANT = {ord(sign): chr(code) for code, sign in SIGNS.items()}


class Ask(ModalScreen[str]):
    """Asks ``title``; dismisses with what was written, or with an empty string on escape.

    ``wrong`` says in a sentence why something that was written cannot be taken, or nothing. A ``value`` of several rows stands on one,
    with signs for where they end; what is dismissed with has rows again, and what was not touched is as it was.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "close", id="ask.close")]

    def __init__(
        self, title: str, text: str, value: str = "", *, word: str = "take it", wrong: Callable[[str], str] = lambda value: ""
    ) -> None:
        super().__init__()
        self._question, self._text, self._value, self._word, self._wrong = title, text, value, word, wrong

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Draw(lambda width, _height: line((self._question, "bold")).truncate(max(width, 0)))
            if self._text:
                yield Draw(lambda width, _height: fold(self._text, width, indent=""), classes="prose")
            yield Input(safe_text(self._value).translate(SIGNS), compact=True, select_on_focus=False)
            yield Draw(id="wrong", classes="trouble")
            yield Draw(
                lambda _width, _height: line(
                    ("enter", "bold $primary"), (f" {self._word}   ", "$muted"), ("esc", "bold $primary"), (" close", "$muted")
                )
            )

    def on_mount(self) -> None:
        self.query_one("#wrong").display = False

    def on_input_changed(self) -> None:
        self.query_one("#wrong").display = False

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        value = restored(self._value, event.value.translate(MEANT)).strip()
        wrong = self._wrong(value) if value else ""
        if not wrong:
            self.dismiss(value)
            return
        shown = self.query_one("#wrong", Draw)
        shown.display = True
        shown.show(lambda width, _height: line(("✗ ", "bold $error"), fold(wrong, width, "  ", "")[2:]))
