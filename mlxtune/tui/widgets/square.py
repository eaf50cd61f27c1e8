"""The 2×2 of two arms on the same rows, in which a cursor stands on one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.tui.draw import Part, clickable, col, line, lines
from mlxtune.tui.evaluations import CELLS, Cell
from mlxtune.tui.widgets.pane import Pane

_STYLES: dict[Cell, str] = {"both": "bold", "broken": "bold $error", "fixed": "bold $success", "neither": "bold"}
_NEXT: dict[tuple[Cell, str], Cell] = {
    ("both", "right"): "broken", ("both", "down"): "fixed", ("broken", "left"): "both", ("broken", "down"): "neither",
    ("fixed", "right"): "neither", ("fixed", "up"): "both", ("neither", "left"): "fixed", ("neither", "up"): "broken",
}  # fmt: skip


class Square(Pane):
    """Rows are the first arm's, columns the second's; only what was fixed and broken is coloured, and both are named."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "go('up')", "up", id="square.up"),
        Binding("down,j", "go('down')", "down", id="square.down"),
        Binding("left,h", "go('left')", "left", id="square.left"),
        Binding("right,l", "go('right')", "right", id="square.right"),
        Binding("enter", "choose", "the rows of this cell", id="square.open"),
    ]

    @dataclass
    class Chosen(Message):
        """Enter, or a click on a cell."""

        square: Square
        cell: Cell

        @property
        def control(self) -> Square:
            return self.square

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell: Cell = "broken"
        self._counts: dict[Cell, int] = dict.fromkeys(CELLS, 0)
        self._names = ("", "")
        self._told: Part = ""
        self._flat = False

    def set(self, counts: dict[Cell, int], first: str, second: str, told: Part, *, flat: bool) -> None:
        """Show ``counts`` of ``second`` against ``first``, and what they mean; ``flat``: on one row, where there is no room for four."""
        self._counts, self._names, self._told, self._flat = counts, (first, second), told, flat
        self.show(self._square)

    def _square(self, width: int, _height: int) -> Content:
        if self._flat:
            cells = (part for cell in CELLS for part in (self._cell(cell), "   "))
            return line("  ", *cells, self._told).truncate(max(width, 0))
        first, second = self._names
        room = min(max(len(first), len(second)) + 2, max(width - 34, 4))

        def row(name: str, left: Content, right: Content) -> Content:
            return line("  ", col(name, room, "$muted"), col(left, 12, right=True), (" │ ", "$line"), right).truncate(max(width, 0))

        head = row("", Content.styled(f"{second} ✓", "$muted"), Content.styled(f"{second} ✗", "$muted"))
        rule = line("  ", " " * room, ("─" * 13 + "┼" + "─" * 13, "$line")).truncate(max(width, 0))
        body = [
            row(f"{first} ✓", self._cell("both"), self._cell("broken")),
            rule,
            row(f"{first} ✗", self._cell("fixed"), self._cell("neither")),
        ]
        return lines(head, *body, Content(""), line("  ", self._told).truncate(max(width, 0)))

    def _cell(self, cell: Cell) -> Content:
        count = self._counts[cell]
        words = {"both": "both hold", "neither": "both fail"} if self._flat else {"both": "", "neither": ""}
        word = words.get(cell, cell)
        told = f"{word} {count:,}" if cell == "fixed" and not self._flat else f"{count:,} {word}".strip()
        shown = Content.styled(told, _STYLES[cell] if count or cell in words else "$muted")
        if self.has_focus and cell == self.cell:
            shown = line(("▌", "$primary"), shown.stylize_before("$select-ink on $select"))
        return clickable(shown, f"pick('{cell}')")

    def action_go(self, way: str) -> None:
        if self._flat:
            way = {"up": "left", "down": "right"}.get(way, way)
            at = CELLS.index(self.cell) + (1 if way == "right" else -1)
            self.cell = CELLS[max(0, min(at, len(CELLS) - 1))]
        else:
            self.cell = _NEXT.get((self.cell, way), self.cell)
        self.show(self._square)

    def action_pick(self, cell: Cell) -> None:
        self.cell = cell
        self.action_choose()

    def action_choose(self) -> None:
        self.post_message(self.Chosen(self, self.cell))

    def on_focus(self, _event: events.Focus) -> None:
        self.show(self._square)

    def on_blur(self, _event: events.Blur) -> None:
        self.show(self._square)
