"""A text field that opens over a cell of a picture, and closes on escape or when the focus goes elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.message import Message
from textual.widgets import Input


class Field(Input):
    """One line to edit in place. It is hidden until :meth:`open`; ``Input.Submitted`` says that enter was pressed.

    Its parent needs ``layers: base field``, so that nothing makes room for it.
    """

    DEFAULT_CSS = """
    Field, Field:focus { display: none; layer: field; height: 1; border: none; padding: 0; background: $panel; color: $foreground; }
    Field.-open, Field.-open:focus { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it as it was", id="field.leave")]

    @dataclass
    class Left(Message):
        """It was closed without a word."""

        field: Field

        @property
        def control(self) -> Field:
            return self.field

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compact=True, **kwargs)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self, text: str, at: Offset, width: int) -> None:
        """Show ``text`` to be edited, ``width`` cells from ``at`` on, as seen from the parent."""
        self.styles.offset = at
        self.styles.width = max(width, 1)
        self.value = text
        self.add_class("-open")
        self.focus()
        self.action_select_all()

    def close(self) -> None:
        """Hide it."""
        self.remove_class("-open")

    def action_leave(self) -> None:
        self.close()
        self.post_message(self.Left(self))

    def on_blur(self, _event: events.Blur) -> None:
        if self.is_open:
            self.action_leave()
