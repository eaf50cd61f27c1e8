"""A section: a title on a light rule with a note at the end, above the content. Sections have no boxes."""

from typing import Any

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget

from mlxtune.tui.render.text import Part, section_title
from mlxtune.tui.widgets.panel import Panel


class SectionTitle(Panel):
    """A title on its rule. ``lit`` adds a bar before it, which marks the focused section."""

    def __init__(self, title: str, lit: bool = False) -> None:
        self._title, self._lit = title, lit
        self._note: Part = ""
        super().__init__(self._draw)

    def set(self, *, title: str | None = None, note: Part | None = None, lit: bool | None = None) -> None:
        """Change the title, the note at the end of the rule, or whether the section is lit."""
        self._title = self._title if title is None else title
        self._note = self._note if note is None else note
        self._lit = self._lit if lit is None else lit
        self.update(self._draw)

    def _draw(self, width: int, _height: int) -> Content:
        return section_title(self._title, width, self._note, self._lit)


class Section(Vertical):
    """A title and its content. The title is lit while a widget in the section has focus."""

    def __init__(self, title: str, *children: Widget, lit: bool = False, **kwargs: Any) -> None:
        self.head = SectionTitle(title, lit)
        super().__init__(self.head, *children, **kwargs)

    def on_descendant_focus(self) -> None:
        """Ask the screen for the focus, because blur and focus events may arrive in either order."""
        focused = self.screen.focused
        self.head.set(lit=focused is not None and self in focused.ancestors)

    on_descendant_blur = on_descendant_focus
