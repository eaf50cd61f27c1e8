"""What Data shows: the rows, what was found, lengths and split; its verbs are in ``data``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input

from mlxtune.core.text import plural
from mlxtune.tui.draw import col, fold, line
from mlxtune.tui.row_view import row_view
from mlxtune.tui.screens.room import Room
from mlxtune.tui.screens.source_room import SourceRoom
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets import data_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.source_states import count_note, not_divided, sorry_picture, trouble_line
from mlxtune.tui.work import Work

ORDERS = {"row": "", "findings": "gravest first", "longest": "longest first", "shortest": "shortest first"}
HIGH = (4, 5)  # rows of the histogram on a short and on a tall screen


class Figures(Vertical):
    """The column of figures, which divides its rows anew when it gets another size."""

    def on_resize(self) -> None:
        screen = self.screen
        if isinstance(screen, Room):
            screen.show()


class DataView(SourceRoom):
    """The part of the room that shows."""

    def __init__(self) -> None:
        super().__init__()
        self._left: Mapping[str, Any] = {}
        self._figures = False  # whether they are shown in place of the rows, where there is no room for both
        self._work: Work | None = None
        self._counted: tuple[object, pictures.Histogram | None] = (None, None)
        self._drawn: Sequence[int] = ()  # the rows of the list as it was drawn last

    def body(self) -> ComposeResult:
        yield Section("Data", Draw(id="invite"), lit=True, id="data-empty")
        yield Section("Data", Draw(id="broken"), lit=True, id="data-broken")
        with Container(id="data-columns"):
            with Vertical(id="rows-side"):
                yield Section(
                    "Rows",
                    Horizontal(
                        Draw(lambda _width, _height: line("  ", ("/", "bold $primary"))),
                        Input(
                            placeholder="status:pending  tag:x  finding:x  len>400  /regex/  text", compact=True, id="filter-text"
                        ),
                        Draw(id="order"),
                        id="filter",
                    ),
                    Draw(id="trouble"),
                    ListPane(id="list", about="The rows that the filter shows. Enter opens the one under the cursor in Review."),
                    id="rows",
                    classes="fill",
                )
            with Figures(id="figures"):
                yield Section(
                    "Findings",
                    ListPane(id="found", about="What checks find. Enter shows the rows of a finding, f mends them."),
                    Draw(id="standing"),
                    id="findings",
                )
                yield Section("Lengths", Draw(id="histogram"), id="lengths")
                yield Section("Split", Draw(id="split-picture"), id="split")

    def remember(self) -> Mapping[str, Any]:
        work = self.bench.work
        return {"filter": work.shown.filter, "order": work.shown.order, "row": work.at} if work else self._left

    def recall(self, left: Mapping[str, Any]) -> None:
        self._left = {"filter": str(left["filter"]), "order": str(left["order"]), "row": int(left["row"])}

    def draw(self, snapshot: Snapshot) -> None:
        work = self.bench.turn_to(self.desk.recipe)
        if work is not self._work:
            self._turned(work)
        self.set_class(work is None, "-bare")
        self.set_class(work is not None and (work.error is not None or work.browse is None or not len(work.browse)), "-broken")
        self.set_class(self._figures, "-figures")
        if work is None:
            self.query_one("#invite", Draw).show(lambda width, _height: self.without_rows(None, width))
        elif work.error is not None or work.browse is None or not len(work.browse):
            self.query_one("#broken", Draw).show(lambda width, _height: self.without_rows(work, width))
        else:
            self._rows(work)
            self._figured(work)

    def _turned(self, work: Work | None) -> None:
        """Another source, or a new version of it, is on show."""
        self._work = work
        if work is None:
            return
        if self._left and not work.shown.filter:
            left, self._left = self._left, {}
            work.at = left["row"]
            work.show(left["filter"], left["order"] if left["order"] in ORDERS else "row")
        text = self.query_one("#filter-text", Input)
        if text.value != work.shown.filter:
            with text.prevent(Input.Changed):
                text.value = work.shown.filter

    def _rows(self, work: Work) -> None:
        browse, shown = work.source, work.shown
        pane = self.query_one("#list", ListPane)
        rows, unit = shown.rows, "tokens" if browse.checked and len(browse.checked.tokens) else "chars"
        self._drawn = rows
        cursor = pane.cursor if pane.cursor < len(rows) and rows[pane.cursor] == work.at else work.index()

        def columns() -> pictures.Columns:  # of the width that the pane has when it is drawn
            return pictures.Columns.of(pane.size.width, len(browse))

        pane.set(
            len(rows),
            lambda at, room: pictures.table_row(row_view(browse, int(rows[at])), columns(), room, unit),
            cursor=cursor,
            header=lambda room: pictures.header(columns(), room, unit),
        )
        if len(rows):
            work.at = int(rows[pane.cursor])
        self.query_one("#rows", Section).head.set(note=count_note(work, pane.cursor))
        order = ORDERS[shown.order]
        label = self.query_one("#order", Draw)
        label.display = bool(order)
        label.show(lambda room, _height: col(order, room, "$muted", right=True))
        trouble = self.query_one("#trouble", Draw)
        unchecked = work.checking.error is not None and not self.query_one("#figures").display
        trouble.display = bool(shown.trouble) or not len(rows) or unchecked
        trouble.show(lambda room, _height: trouble_line(work, room))

    def _figured(self, work: Work) -> None:
        browse, checking = work.source, work.checking
        standing, checked = browse.standing, browse.checked
        found, said = self.query_one("#found", ListPane), self.query_one("#standing", Draw)
        names = list(standing.rows) if standing else []
        found.display = bool(names)
        facts = checked.facts if checked else None

        def said_of(room: int) -> Content:
            if standing and facts and checked:
                return pictures.standing_picture(standing, facts, checked.skipped, room, brief=not self.tall)
            if checking.error is not None:
                return sorry_picture(checking.error, room)
            return pictures.nothing_found(checking.doing, checking.share, room)

        if standing:
            found.styles.max_height = self._room_for_findings(said_of)
            found.set(
                len(names),
                lambda at, room: pictures.finding_row(names[at], standing.rows[names[at]], room, at == found.cursor),
            )
        said.show(lambda room, _height: said_of(room))
        note = plural(standing.flagged, "row") if standing and standing.flagged else ""
        self.query_one("#findings", Section).head.set(note=note)
        self._lengths(work)
        shares = checked.shares if checked else {}
        why = not_divided(checked.skipped.get("split", "no share is known")) if checked else "○ not known yet"
        self.query_one("#split-picture", Draw).show(lambda room, _height: pictures.split_picture(shares, why, room))

    def _room_for_findings(self, said: Callable[[int], Content]) -> int:
        """How many rows the list may have, so that what stands under it stays on the screen."""
        figures = self.query_one("#figures").size
        gaps, high = (9, HIGH[1]) if self.tall else (5, HIGH[0])
        under = said(figures.width).plain.count("\n") + 1 + high + 4
        return max(figures.height - gaps - under, 3)

    def _lengths(self, work: Work) -> None:
        browse = work.source
        counted = browse.checked is not None and len(browse.checked.tokens) > 0
        limit = browse.checked.max_tokens if browse.checked and counted else 0
        why = "In characters; tokens are not known yet."
        if browse.checked is not None:
            why = f"In characters: {browse.checked.skipped.get('tokens', 'no token was counted').rstrip('.')}."

        def counts(room: int) -> pictures.Histogram | None:
            known = (id(browse), counted, room, browse.known * 20 // max(len(browse), 1))  # counted anew at every twentieth
            if known != self._counted[0]:
                self._counted = (known, pictures.histogram(browse.lengths, limit, room - 2))
            return self._counted[1]

        def picture(room: int, _height: int) -> Content:
            found = counts(room)
            return (
                pictures.histogram_picture(found, limit, why, HIGH[self.tall], room)
                if found
                else fold("No row was read yet.", room)
            )

        draw = self.query_one("#histogram", Draw)
        found = counts(draw.size.width or 40)
        head = self.query_one("#lengths", Section).head
        head.set(title="Token lengths" if counted else "Lengths", note=f"median {found.median:,}" if found else "")
        draw.show(picture)
