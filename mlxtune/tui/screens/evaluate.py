"""Evaluate: whether it helped, by how much, and from any number to the rows behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from mlxtune.core.text import one_line
from mlxtune.tui.draw import Part, line
from mlxtune.tui.evaluations import Lens
from mlxtune.tui.screens import evaluate_asks as asks
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.widgets import evaluate_pages as pages
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.square import Square

if TYPE_CHECKING:
    from mlxtune.evaluation.compare import Contrast
from mlxtune.tui.screens.evaluate_view import REFERENCE, EvaluateView


class Evaluate(EvaluateView):
    """Shows the newest report, or the one that was chosen; beside it an evaluation that is at work."""

    ROOM = "Evaluate"
    ABOUT = "whether it helped: rates with intervals, and the rows behind them"
    CSS_PATH = "evaluate.tcss"
    AUTO_FOCUS = "#ev-list"
    VERBS = frozenset({"metric", "classes", "versus", "review", "compare", "older", "evaluate", "page", "off_task", "stop"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "open", id="evaluate.enter"),
        Binding("m", "metric", "other metric", id="evaluate.metric"),
        Binding("f", "classes", "failures of one class", id="evaluate.classes"),
        Binding("v", "versus", "held against another answer", id="evaluate.versus"),
        Binding("w", "review", "review a training row", id="evaluate.review"),
        Binding("n", "evaluate", "new evaluation", id="evaluate.new"),
        Binding("c", "compare", "compare", id="evaluate.compare"),
        Binding("o", "older", "another report", id="evaluate.older"),
        Binding("e", "page", "report for a browser", id="evaluate.page"),
        Binding("r", "off_task", "off-task prompts", id="evaluate.off-task"),
        Binding("s", "stop", "stop the evaluation", id="evaluate.stop"),
    ]

    @property
    def _can_review(self) -> bool:
        row = self._row
        return row is not None and row.linked is not None and bool(row.linked.near) and "Review" in self.desk.rooms

    def verbs(self) -> Sequence[Verb]:
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        new = Verb("n", "new", "evaluate", "measure a run or a base")
        opened, seen = self._opened, self._seen
        if opened is None:
            first = [Verb("enter", "evaluate", "enter", "measure a run or a base")] if self.desk.can_start else []
            stop = [Verb("s", "stop", "stop", "stop the evaluation; asks first")] if self._live else []
            return [*first, *stop, *([Verb("o", "other", "older", "another report")] if self._finished else []), quit_]
        on = self.focused.id if self.focused else ""
        enters = {"ev-told": "report", "ev-list": "row"}.get(on or "", "rows")
        verbs = [Verb("enter", enters, "enter", "what the cursor stands on")]
        if len(opened.metrics) > 1:
            verbs.append(Verb("m", "metric", "metric", "another metric"))
        if seen and (len(seen.kinds) > 1 or seen.lens.kind):
            verbs.append(Verb("f", "failures", "classes", "only rows that fail in one way"))
        if self._row:
            verbs.append(Verb("v", "versus", "versus", "hold it against the reference, or another arm's answer"))
        if self._can_review:
            verbs.append(Verb("w", "review", "review", "go to a training row like it, in Review"))
        if self._live:
            verbs.append(Verb("s", "stop", "stop", "stop the evaluation; asks first"))
        if self.desk.can_start:
            verbs.append(new)
        if len(self._finished) > 1:
            verbs += [
                Verb("c", "compare", "compare", "hold this report against another one"),
                Verb("o", "other", "older", "another report"),
            ]
        if opened.page:
            verbs.append(Verb("e", "page", "page", "where the report for a browser is"))
        if opened.report.facts.get("regression"):
            verbs.append(Verb("r", "off task", "off_task", "the off-task prompts that changed"))
        return [*verbs, quit_]

    def action_enter(self) -> None:
        """What enter does where no list has the focus."""
        if self._opened is None:
            self.action_evaluate()
        elif isinstance(self.focused, Square):
            self.focused.action_choose()
        else:
            self.app.push_screen(Page("Report", _rows(partial(pages.report_rows, self._opened))))

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        event.stop()
        self.show()
        self.refresh_bindings()

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        if event.pane.id == "ev-table" and self._opened:
            self._look(Lens(self._metric, self._opened.report.arms[event.index].arm))
        elif event.pane.id == "ev-list":
            self._whole_row()

    def on_square_chosen(self, event: Square.Chosen) -> None:
        event.stop()
        item = self._opened.comparison(self._metric) if self._opened else None
        if item:
            self._look(Lens(self._metric, item.second, cell=event.cell, against=item.first))

    def _whole_row(self) -> None:
        opened, seen, row = self._opened, self._seen, self._row
        if opened and seen and row:
            self.app.push_screen(Page(f"Line {row.asked.line:,}", _rows(partial(pages.whole_row, opened, row, seen.lens))))

    def action_metric(self) -> None:
        if self._opened:
            found = self._opened.metrics
            self._metric = found[(found.index(self._metric) + 1) % len(found)]
            arm = self._seen.lens.arm if self._seen else self._opened.report.arms[-1].arm
            self._look(Lens(self._metric, arm), focus=False)
            self.show()

    def action_classes(self) -> None:
        seen = self._seen
        if seen is None:
            return
        kinds = list(seen.kinds)
        choices = [Choice("all", "all", f"{sum(seen.kinds.values()):,}")]
        choices += [Choice(str(at), one_line(kind, 40), f"{seen.kinds[kind]:,}") for at, kind in enumerate(kinds)]

        def chosen(which: str | None) -> None:
            if which:
                self._look(Lens(seen.lens.metric, seen.lens.arm, "" if which == "all" else kinds[int(which)]))

        self.app.push_screen(Choose(f"Which failures of {one_line(seen.lens.arm)}?", "", choices), chosen)

    def action_versus(self) -> None:
        row, seen = self._row, self._seen
        if row and seen:
            order = [REFERENCE, *(arm for arm in row.said if arm != seen.lens.arm)]
            at = order.index(self._versus) if self._versus in order else 0
            self._versus = order[(at + 1) % len(order)]
            self.show()

    def action_review(self) -> None:
        """Go to Review, to a training row that is like the one under the cursor."""
        row = self._row
        if row and row.linked and row.linked.near:
            asks.near(self.desk, row.linked.near, self._go_to_review)

    def _go_to_review(self, id: str) -> None:
        if self._opened:
            self.desk.turn_to(str(self._opened.report.facts.get("name", "")))
        self.desk.wanted_row = id
        self.desk.action_room("review")

    def action_page(self) -> None:
        if self._opened and self._opened.page:
            where = self._opened.page
            shown = where.relative_to(self.desk.workspace) if where.is_relative_to(self.desk.workspace) else where
            self.desk.reply(Answer("·", "$muted", f"The report for a browser, and for whoever decides: {one_line(str(shown))}"))

    def action_older(self) -> None:
        asks.choose_report(self.desk, "Which report?", self._finished, self._take)

    def _take(self, view: RunView) -> None:
        self._chosen = view.id
        self._opened = self._seen = None
        self.show()

    def action_compare(self) -> None:
        if self._opened:
            mine = self._opened.folder.name
            others = [view for view in self._finished if view.id != mine]
            asks.choose_report(self.desk, "Hold it against which?", others, self._hold_against)

    def _hold_against(self, other: RunView) -> None:
        if self._opened:
            workspace, mine = self.desk.workspace, self._opened.folder.name
            self.fetch(lambda: pages.contrast(workspace, other.id, mine), self._show_contrast)

    def _show_contrast(self, found: Contrast) -> None:
        self.app.push_screen(Page("Compared", _rows(partial(pages.contrast_rows, found))))

    def action_off_task(self) -> None:
        if self._opened:
            opened = self._opened
            self.fetch(lambda: pages.off_task(opened), self._show_off_task)

    def _show_off_task(self, found: pages.OffTask) -> None:
        self.app.push_screen(Page("Off task", _rows(partial(pages.off_task_rows, found))))

    def action_evaluate(self) -> None:
        if self.desk.can_start:
            asks.what(self.desk)

    def action_stop(self) -> None:
        if self._live:
            asks.stop(self.desk, self._live)


def _rows(made: Callable[[int], list[Content]]) -> Callable[[int], Sequence[tuple[Part, ...]]]:
    """Rows of content as a page takes them."""
    return lambda width: [(line(row),) for row in made(width)]
