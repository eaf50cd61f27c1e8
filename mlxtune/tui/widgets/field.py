"""Text fields that the escape key closes: a single-line field over a panel, and a multi-line editor."""

from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.message import Message
from textual.widgets import Input, TextArea


class Field(Input):
    """A single-line field to edit in place, hidden until :meth:`open`. Enter posts ``Input.Submitted``.

    The parent needs ``layers: base field``, so that the field covers its content instead of moving it.
    """

    DEFAULT_CSS = """
    Field, Field:focus { display: none; layer: field; height: 1; border: none; padding: 0; background: $panel; color: $foreground; }
    Field.-open, Field.-open:focus { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "cancel", id="field.leave")]

    class Cancelled(Message):
        """The field was closed without a new value."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compact=True, **kwargs)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self, text: str, position: Offset, width: int) -> None:
        """Edit ``text`` in ``width`` cells, starting at ``position`` relative to the parent."""
        self.styles.offset = position
        self.styles.width = max(width, 1)
        self.value = text
        self.add_class("-open")
        self.screen.set_focus(self)  # immediately, because keys typed in the meantime belong to the field
        self.action_select_all()

    def close(self) -> None:
        self.remove_class("-open")

    def action_leave(self) -> None:
        self.close()
        self.post_message(self.Cancelled())

    def on_blur(self, _event: events.Blur) -> None:
        if self.is_open:
            self.action_leave()


class Editor(TextArea):
    """A multi-line editor. Its text must be safe to show."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "cancel", id="edit.leave", priority=True),  # TextArea binds escape itself
        Binding("ctrl+home", "edge(False)", "start of the text", id="edit.start", show=False),
        Binding("ctrl+end", "edge(True)", "end of the text", id="edit.end", show=False),
    ]

    class Escaped(Message):
        """Escape was pressed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(soft_wrap=True, compact=True, tab_behavior="indent", highlight_cursor_line=False, **kwargs)

    def action_leave(self) -> None:
        self.post_message(self.Escaped())

    def action_edge(self, end: bool) -> None:
        self.move_cursor(self.document.end if end else self.document.start)
