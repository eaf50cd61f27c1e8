"""The 2×2 table of two arms on the same rows, with a cursor on one cell."""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.core.text import one_line
from mlxtune.evaluation.drilldown import CellName
from mlxtune.evaluation.verdict import Comparison
from mlxtune.tui.render.text import cell, clickable, line, lines
from mlxtune.tui.rooms.evaluate.render import paired_note
from mlxtune.tui.widgets import FocusPanel

CELLS: tuple[CellName, ...] = get_args(CellName)  # of the upper row, then of the lower one
_STYLES: dict[CellName, str] = {"both": "bold", "broken": "bold $error", "fixed": "bold $success", "neither": "bold"}


class PairedTable(FocusPanel):
    """Rows are the baseline's outcomes and columns the tuned arm's. Only the fixed and broken cells are colored and named."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "up", id="square.up"),
        Binding("down,j", "move(1, 0)", "down", id="square.down"),
        Binding("left,h", "move(0, -1)", "left", id="square.left"),
        Binding("right,l", "move(0, 1)", "right", id="square.right"),
        Binding("enter", "choose", "show these rows", id="square.open"),
    ]

    @dataclass
    class CellSelected(Message):
        """A cell was clicked, or enter was pressed on it."""

        cell: CellName

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell: CellName = "broken"
        self._item: Comparison | None = None
        self._flat = False

    def set(self, item: Comparison, *, flat: bool) -> None:
        """Show a comparison. ``flat`` draws it in one row, for short screens."""
        self._item, self._flat = item, flat
        self.update(self._table)

    def _table(self, width: int, _height: int) -> Content:
        item = self._item
        if item is None:
            return Content("")
        cells = {name: self._cell(name, getattr(item.paired, name)) for name in CELLS}
        if self._flat:
            row = (part for content in cells.values() for part in (content, "   "))
            return line("  ", *row, paired_note(item, brief=True))
        name_width = min(max(len(item.first), len(item.second)) + 2, max(width - 34, 12))
        first, second = one_line(item.first, name_width - 2), one_line(item.second, 10)

        def draw(name: str, left: Content, right: Content) -> Content:
            return line("  ", cell(name, name_width, "$muted"), cell(left, 12, right=True), (" │ ", "$line"), right)

        return lines(
            draw("", Content.styled(f"{second} ✓", "$muted"), Content.styled(f"{second} ✗", "$muted")),
            draw(f"{first} ✓", cells["both"], cells["broken"]),
            line("  ", " " * name_width, ("─" * 13 + "┼" + "─" * 13, "$line")),
            draw(f"{first} ✗", cells["fixed"], cells["neither"]),
            Content(""),
            line("  ", paired_note(item, brief=False)),
        )

    def _cell(self, name: CellName, count: int) -> Content:
        words = {"both": "both pass", "neither": "both fail"} if self._flat else {"both": "", "neither": ""}
        word = words.get(name, name)
        text = f"{word} {count:,}" if name == "fixed" and not self._flat else f"{count:,} {word}".strip()
        shown = Content.styled(text, _STYLES[name] if count or name in words else "$muted")
        if self.has_focus and name == self.cell:
            shown = line(("▌", "$primary"), shown.stylize_before("$select-ink on $select"))
        return clickable(shown, f"pick('{name}')")

    def action_move(self, rows: int, columns: int) -> None:
        if self._flat:
            index = CELLS.index(self.cell) + rows + columns
            self.cell = CELLS[max(0, min(index, len(CELLS) - 1))]
        else:
            row, column = divmod(CELLS.index(self.cell), 2)
            self.cell = CELLS[2 * max(0, min(row + rows, 1)) + max(0, min(column + columns, 1))]
        self.update(self._table)

    def action_pick(self, name: CellName) -> None:
        self.cell = name
        self.action_choose()

    def action_choose(self) -> None:
        self.post_message(self.CellSelected(self.cell))
