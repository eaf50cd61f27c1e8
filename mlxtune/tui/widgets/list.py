"""Lists of any length, with a cursor on one row; in one of them, several rows can be marked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.tui.render.text import Part, line, lines
from mlxtune.tui.widgets.panel import FocusPanel, movement

T = TypeVar("T")
DrawRow = Callable[[int, int], Content]  # from an index and a width to the row's content, which starts at column 2


class ListPanel(FocusPanel):
    """Shows ``count`` rows. A click moves the cursor; a click on the cursor's row, or any click if ``eager``, chooses the row.

    Slash and a text keep only the rows that contain the text, unless the list ``has_filter`` of its own.

    Textual's OptionList and DataTable hold and measure every row, which takes 4 to 6 s per 100,000 rows, and have no bar in the
    gutter. This one draws only the visible rows.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *movement("list"),
        Binding("enter", "choose", "choose the row", id="list.open"),
        Binding("slash", "filter", "filter the rows", id="list.filter"),
    ]

    @dataclass
    class Chosen(Message):
        """The user pressed enter, or clicked the row under the cursor."""

        panel: ListPanel
        index: int

    def __init__(self, *, eager: bool = False, has_filter: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._eager, self._has_filter = eager, has_filter
        self.query_text: str | None = None  # the text that the shown rows contain
        self._is_typing = False
        self.count = 0
        self.cursor = 0
        self.first = 0  # the first visible row
        self._row: DrawRow = lambda _index, _width: Content("")
        self._header: Callable[[int], Content] | None = None
        self._on_move: Callable[[int], None] = lambda _index: None

    def set(
        self, count: int, row: DrawRow, *, cursor: int | None = None, header: Callable[[int], Content] | None = None,
        on_move: Callable[[int], None] = lambda _index: None,
    ) -> None:  # fmt: skip
        """Show ``count`` rows, drawn by ``row(index, width)``, below ``header(width)``. ``cursor`` moves the cursor silently.

        ``on_move(index)`` is called as soon as a key or the mouse moves the cursor.
        """
        fits = count == self.count or not (self.styles.height and self.styles.height.is_auto)
        self.count, self._row, self._header, self._on_move = count, row, header, on_move
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        self.update(self._draw)
        if not fits:
            self.refresh(layout=True)  # update() draws only as many rows as fit the present height

    @property
    def _above(self) -> int:
        return (1 if self._header else 0) + (self.query_text is not None)

    @property
    def _indices(self) -> Sequence[int]:
        if self.query_text is None:
            return range(self.count)
        wanted, width = self.query_text.casefold(), max(self.size.width - 2, 20)
        return [index for index in range(self.count) if wanted in self._row(index, width).plain.casefold()]

    @property
    def _place(self) -> int:
        shown = self._indices
        return shown.index(self.cursor) if self.cursor in shown else 0

    def pick(self, items: Sequence[T]) -> T | None:
        """Return the one of ``items``, one for each row, that is under the cursor, or ``None`` if there is none."""
        return items[self.cursor] if self.cursor < len(items) else None

    @property
    def text(self) -> str:
        return self._row(self.cursor, max(self.size.width - 2, 20)).plain.strip()

    def _draw(self, width: int, height: int) -> Content:
        shown, place = self._indices, self._place
        header = [self._header(width)] if self._header else []
        if self.query_text is not None:
            count = (f"   {len(shown):,} of {self.count:,}", "$muted")
            header.insert(
                0, line("  ", ("/ ", "bold $primary"), self.query_text, ("▏" if self._is_typing else "", "$primary"), count)
            )
        rows = height - len(header) if height > 0 else len(shown)
        self.first = max(0, min(self.first, place, len(shown) - rows), place - rows + 1)
        return lines(*header, *(self._draw_row(index, width) for index in shown[self.first : self.first + rows]))

    def _draw_row(self, index: int, width: int) -> Content:
        here = index == self.cursor
        bar = ("▌", "$primary") if self.has_focus else ("▎", "$muted")
        row = line(self._gutter(index, bar if here else (" ", "")), self._row(index, width - 2)).truncate(max(width, 0))
        if not here or not self.has_focus:
            return row
        return line(row, " " * max(width - row.cell_length, 0)).stylize_before("$select-ink on $select")

    def _gutter(self, index: int, bar: tuple[str, str]) -> Part:
        """Return the two cells before a row, which begin with ``bar``."""
        return f"{bar[0]} ", bar[1]

    def go(self, index: int) -> None:
        index = max(0, min(index, self.count - 1))
        if self.count and index != self.cursor:
            self.cursor = index
            self._on_move(index)
            self.update(self._draw)

    def scroll_rows(self, by: int) -> None:
        if shown := self._indices:
            self.go(shown[max(0, min(self._place + by, len(shown) - 1))])

    action_move = scroll_rows

    def action_edge(self, end: bool) -> None:
        self.scroll_rows(self.count if end else -self.count)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "filter" or not self._has_filter

    def action_filter(self) -> None:
        self.keep(self.query_text or "")

    def keep(self, query: str | None) -> None:
        """Show the rows that contain ``query``, or all if it is ``None``."""
        self.query_text, self._is_typing = query, query is not None
        shown = self._indices
        if shown and self.cursor not in shown:
            self.go(shown[0])
        self.refresh(layout=True)
        self.update(self._draw)

    def on_key(self, event: events.Key) -> None:
        if self.query_text is None or (not self._is_typing and event.key != "escape"):
            return
        if event.key == "enter":
            self._is_typing = False  # and choose the row
            return
        if event.key == "escape":
            self.keep(None)
        elif event.key == "backspace":
            self.keep(self.query_text[:-1])
        elif event.is_printable and event.character:
            self.keep(self.query_text + event.character)
        else:
            return
        event.stop()
        event.prevent_default()

    def action_choose(self) -> None:
        if self._indices:
            self.post_message(self.Chosen(self, self.cursor))

    async def on_click(self, event: events.Click) -> None:
        shown, place = self._indices, self.first + event.y - self._above
        if self.first <= place < len(shown):
            event.stop()
            index = shown[place]
            here = index == self.cursor
            self.go(index)
            if here or self._eager:
                self.action_choose()
        else:
            await super().on_click(event)


class MarkableList(ListPanel):
    """A list in which space marks a row, and v or shift with the arrows mark a range. ``marked`` has the keys of the marked rows."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "mark the row", id="list.mark"),
        Binding("v", "visual", "mark a range", id="list.visual"),
        Binding("shift+up,K", "extend(-1)", "mark upwards", id="list.mark-up"),
        Binding("shift+down,J", "extend(1)", "mark downwards", id="list.mark-down"),
    ]

    @dataclass
    class Marked(Message):
        """Rows were marked or unmarked."""

        panel: MarkableList

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.marked: set[Any] = set()
        self.key: Callable[[int], Hashable] = lambda index: index  # identifies a row, wherever it is in the list
        self._anchor: int | None = None  # where the range being marked begins
        self._marked_before: frozenset[Any] = frozenset()  # the marks when the range was begun

    @property
    def is_visual(self) -> bool:
        """Whether moving the cursor marks rows."""
        return self._anchor is not None

    def clear_marks(self) -> None:
        self._anchor = None
        self._set(set())

    def go(self, index: int) -> None:
        super().go(index)
        if self._anchor is not None and self.count:
            low, high = sorted((self._anchor, self.cursor))
            shown: Sequence[int] = range(low, min(high + 1, self.count))
            if self.query_text is not None:
                shown = [index for index in self._indices if low <= index <= high]
            self._set(set(self._marked_before) | {self.key(index) for index in shown})

    def action_mark(self) -> None:
        if self.count:
            self._anchor = None
            self._set(self.marked ^ {self.key(self.cursor)})
            self.go(self.cursor + 1)

    def action_visual(self) -> None:
        self._anchor = None if self.is_visual or not self.count else self.cursor
        self._marked_before = frozenset(self.marked)
        self.go(self.cursor)
        self.post_message(self.Marked(self))

    def action_extend(self, by: int) -> None:
        if not self.is_visual:
            self.action_visual()
        self.go(self.cursor + by)

    def _set(self, marked: set[Any]) -> None:
        if marked != self.marked:
            self.marked = marked
            self.update(self._draw)
            self.post_message(self.Marked(self))

    def _gutter(self, index: int, bar: tuple[str, str]) -> Part:
        if self.marked and self.key(index) in self.marked:
            return line(bar, ("•", "bold $primary"))
        return super()._gutter(index, bar)
