"""A section: its title on a light rule, a note at the end of the rule, and what stands under it. No boxes."""

from __future__ import annotations

from typing import Any

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget

from mlxtune.tui.draw import Part, col, line
from mlxtune.tui.widgets.draw import Draw


class Head(Draw):
    """A title on its rule. The bar in the gutter says: you are here."""

    def __init__(self, title: str, lit: bool = False) -> None:
        self._title, self._note, self._lit = title, Content(""), lit
        super().__init__(self._draw)

    def set(self, *, title: str | None = None, note: Part | None = None, lit: bool | None = None) -> None:
        """Change the title, the note at the end of the rule, or whether the section is where you are."""
        self._title = self._title if title is None else title
        self._note = self._note if note is None else Content.assemble(note)
        self._lit = self._lit if lit is None else lit
        self.show(self._draw)

    def _draw(self, width: int, _height: int) -> Content:
        title = line(("▌ " if self._lit else "  ", "$primary"), (f"{self._title} ", "bold $primary" if self._lit else "bold"))
        note = line(" ", self._note.stylize_before("$muted")) if self._note.plain else Content("")
        note = col(note, min(note.cell_length, max(width - title.cell_length - 2, 0)))
        rule = ("─" * max(width - title.cell_length - note.cell_length, 0), "$line")
        return line(title, rule, note).truncate(max(width, 0))


class Section(Vertical):
    """A heading and its content. While a pane in it has the focus, the heading says so."""

    def __init__(self, title: str, *children: Widget, lit: bool = False, **kwargs: Any) -> None:
        self.head = Head(title, lit)
        super().__init__(self.head, *children, **kwargs)

    def on_descendant_focus(self) -> None:
        self._light()

    def on_descendant_blur(self) -> None:
        self._light()

    def _light(self) -> None:
        """Say whether the focus is here: what leaves it is told in no certain order with what takes it."""
        focused = self.screen.focused
        self.head.set(lit=focused is not None and self in focused.ancestors)
