"""Data: the rows of the source, what checks find about them, how long they are, how they are divided; and decisions on many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data.review import Action
from mlxtune.tui import curate
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.data_view import ORDERS, DataView
from mlxtune.tui.widgets.frame import Foot, Verb, sorry
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.source_states import count_note
from mlxtune.tui.workbench import told


class Data(DataView):
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
        if (work := self.work) is None or self.desk.busy or not len(work.shown.rows):
            return
        try:
            step = work.decide(action, [work.at], **more)
        except MlxtuneError as error:
            self.desk.reply(sorry(error))
            return
        self.desk.reply(told(step, [work.at]))

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
