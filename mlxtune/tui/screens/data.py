"""Data: the rows of the source, what checks find about them, how long they are, how they are divided; and decisions on many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.data.review import Action
from mlxtune.tui import curate
from mlxtune.tui.draw import col, fold, line
from mlxtune.tui.row_view import row_view
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets import data_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Foot, Verb, sorry
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.source_states import broken, count_note, invite, not_divided, sorry_picture, trouble_line
from mlxtune.tui.work import Work
from mlxtune.tui.workbench import News, Workbench, told, workbench

ORDERS = {"row": "", "findings": "gravest first", "longest": "longest first", "shortest": "shortest first"}
HIGH = (4, 5)  # rows of the histogram on a short and on a tall screen


class Data(Room):
    """The cursor stands on a row or on a finding; the verbs are about that."""

    ROOM = "Data"
    ABOUT = "the rows, what is wrong with them, and what mends it"
    CSS_PATH = "data.tcss"
    AUTO_FOCUS = "#list"
    VERBS = frozenset(
        {"filter", "review", "fix", "accept", "reject", "tag", "redo", "sort", "bulk", "bring", "figures", "recipe", "again"}
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", id="data.filter"),
        Binding("f", "fix", "fix", id="data.fix"),
        Binding("a", "accept", "accept", id="data.accept"),
        Binding("x", "reject", "reject", id="data.reject"),
        Binding("t", "tag", "tag", id="data.tag"),
        Binding("u", "undo", "undo", id="data.undo"),
        Binding("U,ctrl+r", "redo", "redo", id="data.redo"),
        Binding("s", "sort", "sort", id="data.sort"),
        Binding("b", "bulk", "all shown", id="data.all"),
        Binding("i", "bring", "import", id="data.import"),
        Binding("g", "figures", "figures", id="data.figures"),
        Binding("c", "recipe", "recipe", id="data.recipe"),
        Binding("n", "again", "check again", id="data.check"),
        Binding("escape", "leave", "back", id="data.back"),
    ]

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
            with Vertical(id="figures"):
                yield Section(
                    "Findings",
                    ListPane(id="found", about="What checks find. Enter shows the rows of a finding, f mends them."),
                    Draw(id="standing"),
                    id="findings",
                )
                yield Section("Lengths", Draw(id="histogram"), id="lengths")
                yield Section("Split", Draw(id="split-picture"), id="split")

    @property
    def bench(self) -> Workbench:
        return workbench(self.app)

    @property
    def work(self) -> Work | None:
        """The source on show, once it is open."""
        work = self.bench.work
        return work if work is not None and work.browse is not None else None

    # What comes back after a restart

    def remember(self) -> Mapping[str, Any]:
        work = self.bench.work
        return {"filter": work.shown.filter, "order": work.shown.order, "row": work.at} if work else self._left

    def recall(self, left: Mapping[str, Any]) -> None:
        self._left = {"filter": str(left["filter"]), "order": str(left["order"]), "row": int(left["row"])}

    # News

    def on_mount(self) -> None:
        self.bench.join(self)
        super().on_mount()

    def on_unmount(self) -> None:
        self.bench.leave(self)

    def on_screen_suspend(self) -> None:
        if self.desk.current_mode not in ("data", "review"):
            self.bench.let_go()

    def on_news(self, _message: News) -> None:
        if self.is_current:
            self.show()
            self.refresh_bindings()

    def draw(self, snapshot: Snapshot) -> None:
        work = self.bench.turn_to(self.desk.recipe)
        if work is not self._work:
            self._turned(work)
        self.set_class(work is None, "-bare")
        self.set_class(work is not None and (work.error is not None or work.browse is None or not len(work.browse)), "-broken")
        self.set_class(self._figures, "-figures")
        view = self.desk.recipe
        if work is None:
            self.query_one("#invite", Draw).show(
                lambda width, _height: invite(view.error if view else "", bool(snapshot.recipes), width)
            )
        elif work.error is not None or work.browse is None or not len(work.browse):
            self.query_one("#broken", Draw).show(lambda width, _height: broken(work, width))
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
        width = pane.size.width or self.app.size.width
        columns = pictures.Columns.of(width, len(browse))
        pane.set(
            len(rows),
            lambda at, room: pictures.table_row(row_view(browse, int(rows[at])), columns, room, unit),
            cursor=cursor,
            header=lambda room: pictures.header(columns, room, unit),
        )
        if len(rows):
            work.at = int(rows[pane.cursor])
        self.query_one("#rows", Section).head.set(note=count_note(work, pane.cursor))
        order = ORDERS[shown.order]
        label = self.query_one("#order", Draw)
        label.display = bool(order)
        label.show(lambda room, _height: col(order, room, "$muted", right=True))
        trouble = self.query_one("#trouble", Draw)
        trouble.display = bool(shown.trouble) or not len(rows)
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
        draw = self.query_one("#histogram", Draw)
        width = (draw.size.width or 40) - 2
        why = "In characters; tokens are not known yet."
        if browse.checked is not None:
            why = f"In characters: {browse.checked.skipped.get('tokens', 'no token was counted').rstrip('.')}."
        known = (id(browse), counted, width, browse.known * 20 // max(len(browse), 1))  # counted anew at every twentieth
        if known != self._counted[0]:
            self._counted = (known, pictures.histogram(browse.lengths, limit, width))
        found = self._counted[1]
        head = self.query_one("#lengths", Section).head
        head.set(title="Token lengths" if counted else "Lengths", note=f"median {found.median:,}" if found else "")
        high = HIGH[self.tall]
        draw.show(
            lambda room, _height: (
                pictures.histogram_picture(found, limit, why, high, room) if found else fold("No row was read yet.", room)
            )
        )

    # What can be done

    def verbs(self) -> Sequence[Verb]:
        bring = Verb("i", "import", "bring", "rows of any format, as a file of this workspace")
        recipe = [Verb("c", "recipe", "recipe", "be about another recipe")] if self._choices else []
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        work = self.work
        if work is None or work.browse is None or not len(work.browse):
            return [bring, *recipe, quit_]
        on_finding = self.focused is not None and self.focused.id == "found"
        state = work.browse.state
        there = bool(len(work.shown.rows))
        verbs = [Verb("/", "filter", "filter", "show some of the rows: status, tag, finding, length, text")]
        if on_finding:
            verbs.append(Verb("enter", "rows", "focused.choose", "show the rows of this finding"))
        elif there:
            verbs.append(Verb("enter", "review", "review", "look at this row, and decide"))
        if self._fixable():
            verbs.append(Verb("f", "fix", "fix", "see what would mend this finding, then do it"))
        if there and not on_finding:
            verbs += [Verb("a", "accept", "accept", "this row is right"), Verb("x", "reject", "reject", "this row never trains")]
        if state.done:
            verbs.append(Verb("u", "undo", "undo", "take the newest decision back"))
        if not self.wide:
            verbs.insert(
                2, Verb("g", "rows" if self._figures else "figures", "figures", "findings, lengths and split, or the rows")
            )
        if there:
            verbs.append(Verb("b", "all", "bulk", "decide on all rows that are shown"))
        if there and not on_finding:
            verbs.append(Verb("t", "tag", "tag", "tag this row"))
        verbs.append(Verb("s", "sort", "sort", "by number, gravity or length"))
        if state.undone:
            verbs.append(Verb("U", "redo", "redo", "let the decision that was taken back hold again"))
        if work.checking.done or work.checking.error is not None:
            verbs.append(Verb("n", "check again", "again", "look at every row again"))
        return [*verbs, bring, *recipe, quit_]

    @property
    def _choices(self) -> bool:
        snapshot = self.desk.snapshot
        return snapshot is not None and bool(snapshot.recipes)

    def _fixable(self) -> str:
        """The check that f would fix: the one under the cursor, or the gravest of the row under the cursor."""
        from mlxtune.data.checks.finding import CHECKS

        work = self.work
        if work is None or work.browse is None or (standing := work.browse.standing) is None:
            return ""
        names = list(standing.rows)
        cursor = self.query_one("#found", ListPane).cursor
        if self.focused is not None and self.focused.id == "found":
            names = names[cursor : cursor + 1]
        elif own := [one.check for one in work.browse.findings(work.at) if one.severity != "note"]:
            names = own
        else:
            names = names[cursor : cursor + 1]
        return next((name for name in names if CHECKS[name].fix.how != "hand" and name in standing.rows), "")

    def action_filter(self) -> None:
        self._figures = False
        self.show()
        self.query_one("#filter-text").focus()

    def action_leave(self) -> None:
        if self.focused is not None and self.focused.id != "list":
            self._figures = False
            self.show()
            self.query_one("#list").focus()
        else:
            self.desk.action_settle()

    def action_figures(self) -> None:
        self._figures = not self._figures and not self.wide
        self.show()
        self.call_after_refresh(self.query_one("#found" if self._figures else "#list").focus)

    def action_sort(self) -> None:
        if work := self.work:
            names = list(ORDERS)
            work.show(work.shown.filter, names[(names.index(work.shown.order) + 1) % len(names)])
            self.show()

    def action_recipe(self) -> None:
        self.bench.open_file(None)
        self.desk.choose_recipe()

    def action_again(self) -> None:
        if work := self.work:
            work.check_again()
            self.show()

    def action_review(self) -> None:
        self.desk.action_room("review")

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        event.stop()
        work = self.work
        if work is not None and event.pane.id == "list" and event.index < len(self._drawn):
            work.at = int(self._drawn[event.index])  # not of the rows of a filter that has answered since
            self.query_one("#rows", Section).head.set(note=count_note(work, event.index))
        self.query_one(Foot).set(self.named(self.verbs()))  # the rest is not about the cursor: a page turns in one frame

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        work = self.work
        if event.pane.id == "list":
            self.action_review()
        elif work is not None and work.browse is not None and work.browse.standing is not None:
            self.action_only(list(work.browse.standing.rows)[event.index])

    def action_only(self, check: str) -> None:
        self._filter(f"finding:{check}")
        self.action_leave()

    def _filter(self, text: str) -> None:
        with (field := self.query_one("#filter-text", Input)).prevent(Input.Changed):
            field.value = text
        if work := self.work:
            work.show(text, work.shown.order)
            self.show()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if work := self.work:
            work.show(event.value, work.shown.order)
            self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one("#list").focus()

    def action_accept(self) -> None:
        self._decide("accept")

    def action_reject(self) -> None:
        self._decide("reject")

    def _decide(self, action: Action, **more: Any) -> None:
        if (work := self.work) is None or not len(work.shown.rows):
            return
        try:
            step = work.decide(action, [work.at], **more)
        except MlxtuneError as error:
            self.desk.reply(sorry(error))
            return
        self.desk.reply(told(step, [work.at]))

    def action_undo(self) -> None:
        self._turn_back("undo")

    def action_redo(self) -> None:
        self._turn_back("redo")

    def _turn_back(self, which: str) -> None:
        if (work := self.work) is None:
            return
        try:
            self.desk.reply(curate.turned_back(work, which))
        except MlxtuneError as error:
            self.desk.reply(sorry(error))

    def action_tag(self) -> None:
        work = self.work
        if work is None or work.browse is None:
            return
        known = ", ".join(one_line(tag, 20) for tag, _ in work.browse.tags.most_common(9))
        text = f"Known: {known}. A tag that the row has is taken off." if known else "A tag that the row has is taken off."

        def tagged(tag: str | None) -> None:
            if tag and work.browse is not None:
                self._decide("tag", **curate.toggled(work.browse, work.at, tag))

        self.app.push_screen(Ask(f"Tag row {work.at + 1:,}", text, word="tag"), tagged)

    def action_bulk(self) -> None:
        if work := self.work:
            curate.ask_for_all(self, work)

    def action_fix(self) -> None:
        if (work := self.work) and (check := self._fixable()):
            curate.ask_to_fix(self, work, check)

    def action_bring(self) -> None:
        curate.ask_to_import(self, self.bench)
