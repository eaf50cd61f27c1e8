"""A text to be written in place; escape leaves it."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class Editor(TextArea):
    """Its text is safe to show; who opens it sees to that."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave it as it was", id="edit.leave", priority=True),  # TextArea has a use of its own for it
    ]

    class Left(Message):
        """It shall stay as it was."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(soft_wrap=True, compact=True, tab_behavior="indent", highlight_cursor_line=False, **kwargs)

    def action_leave(self) -> None:
        self.post_message(self.Left())
