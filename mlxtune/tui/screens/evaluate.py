"""Evaluate: whether it helped, by how much, and from any number to the rows behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.tui import evaluations
from mlxtune.tui.draw import Part, line
from mlxtune.tui.evaluations import Lens, Opened, Seen, label, named
from mlxtune.tui.screens import evaluate_asks as asks
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.widgets import evaluate_pages as pages
from mlxtune.tui.widgets import evaluate_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.widgets.pane import ListPane, Pane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.square import Square

if TYPE_CHECKING:
    from mlxtune.evaluation.compare import Contrast
    from mlxtune.evaluation.drill import Row

REFERENCE = "reference"


class Evaluate(Room):
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

    def __init__(self) -> None:
        super().__init__()
        self._chosen: str | None = None  # the id of the report that was asked for; None: the newest
        self._opened: Opened | None = None
        self._opening: Path | None = None
        self._broken: tuple[Path, MlxtuneError] | None = None
        self._metric = ""
        self._versus = REFERENCE
        self._seen: Seen | None = None

    def remember(self) -> Mapping[str, Any]:
        return {"evaluation": self._chosen or "", "metric": self._metric}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._chosen, self._metric = str(left.get("evaluation", "")) or None, str(left.get("metric", ""))

    def body(self) -> ComposeResult:
        yield Draw(id="ev-lost")
        yield Section("Verdict", Draw(id="ev-invite"), lit=True, id="ev-empty")
        yield Section("Evaluating", Draw(id="ev-progress"), id="ev-now")
        with Vertical(id="ev-report"):
            yield Section(
                "Verdict",
                Pane(id="ev-told", about="Better, worse or cannot tell, against the strongest arm that was not tuned. enter shows every figure of the report."),
                id="ev-verdict",
            )  # fmt: skip
            yield Section(
                "Arms",
                ListPane(id="ev-table", about="The share of held-out rows that hold, with 95 % Wilson intervals, for each arm. enter shows the rows that an arm fails; m goes to another metric."),
                Draw(id="ev-axis"),
                id="ev-arms",
            )  # fmt: skip
            with Container(id="ev-columns"):
                with Vertical(id="ev-left"):
                    yield Section(
                        "",
                        Square(id="ev-cells", about="The same rows under both arms. enter shows the rows of a cell."),
                        id="ev-square",
                    )
                    yield Section(
                        "",
                        ListPane(id="ev-list", about="The rows behind a number. enter shows all of one; f only those that fail in one way; v holds it against another answer; w goes to a training row like it."),
                        id="ev-rows", classes="fill",
                    )  # fmt: skip
                yield Section("", Draw(id="ev-detail"), id="ev-row")

    # What is on show

    @property
    def _finished(self) -> list[RunView]:
        snapshot = self.desk.snapshot
        return [view for view in snapshot.evals if view.status == "finished"] if snapshot else []

    @property
    def _live(self) -> RunView | None:
        live = self.desk.snapshot.live if self.desk.snapshot else None
        return live if live and live.state.kind == "eval" else None

    @property
    def _row(self) -> Row | None:
        at = self.query_one("#ev-list", ListPane).cursor
        return self._seen.rows[at] if self._seen and at < len(self._seen.rows) else None

    def _wanted(self) -> RunView | None:
        """The report to show: the chosen one, else the newest of the recipe that the rooms are about, else the newest."""
        found = self._finished
        chosen = next((view for view in found if view.id == self._chosen), None)
        recipe = self.desk.recipe.recipe if self.desk.recipe else None
        of_recipe = next((view for view in found if recipe and view.name == recipe.name), None)
        return chosen or of_recipe or next(iter(found), None)

    def draw(self, snapshot: Snapshot) -> None:
        wanted, live = self._wanted(), self._live
        if wanted and wanted.run.folder != (self._opened.folder if self._opened else self._opening):
            self._open(wanted.run.folder)
        if wanted is None:
            self._opened = self._seen = None
        self.set_class(live is not None, "-busy")
        self.set_class(wanted is None and live is None, "-empty")
        self.query_one("#ev-report").display = self._opened is not None
        if self._opened is None and self.focused:
            self.set_focus(None)  # what is hidden would keep it
        self._draw_news(snapshot, live, wanted)
        if self._opened:
            self._draw_report(self._opened)

    def _draw_news(self, snapshot: Snapshot, live: RunView | None, wanted: RunView | None) -> None:
        """What is at work, what failed, and what to do where there is nothing."""
        newest = next(iter(snapshot.evals), None)
        lost = newest if newest and newest.status in ("failed", "crashed", "stopped") and live is None else None
        broken = self._opened.trouble if self._opened else None
        if self._broken and wanted and self._broken[0] == wanted.run.folder:
            broken = self._broken[1]
        self.set_class(lost is not None or broken is not None, "-lost")
        if broken:
            self.query_one("#ev-lost", Draw).show(lambda width, _height: pages.sorry(broken, width))
        elif lost:
            self.query_one("#ev-lost", Draw).show(lambda width, _height: pictures.trouble(lost, width))
        if live:
            self.query_one("#ev-now", Section).head.set(title=f"Evaluating {live.name}", lit=wanted is None)
            self.query_one("#ev-progress", Draw).show(lambda width, _height: pictures.progress(live, snapshot.now, width))
        if wanted is None and live is None:
            recipe = self.desk.recipe.recipe if self.desk.recipe else None
            name = one_line(recipe.name) if recipe else ""
            rows = next((view.rows[2] for view in snapshot.runs if view.rows), 0)
            arms = recipe.evaluation.arms if recipe else []
            starts = self.desk.can_start
            self.query_one("#ev-invite", Draw).show(lambda width, _height: pictures.invite(name, arms, rows, starts, width))

    def _draw_report(self, opened: Opened) -> None:
        report, metric = opened.report, self._metric
        metrics = [metric, *filter(None, [evaluations.telling(opened, metric)])][: 2 if self.wide else 1]
        most = 2 if not self.tall else 3 if self.app.size.height < 40 else 5
        told = self.query_one("#ev-told", Pane)
        told.show(lambda width, _height: pictures.verdict(opened, width, most))
        rows = f"{plural(int(report.facts.get('rows', 0)), 'held-out row')}, none trained on"
        name = one_line(str(report.facts.get("name", "")))
        self.query_one("#ev-verdict", Section).head.set(
            title="Verdict" if self._chosen is None else f"Verdict on {name}", note=rows
        )
        table = self.query_one("#ev-table", ListPane)
        table.styles.height = len(report.arms) + 1
        table.set(
            len(report.arms), lambda at, width: pictures.arm_row(opened, report.arms[at], metrics, width),
            header=lambda width: pictures.arms_header(opened, metrics, width),
        )  # fmt: skip
        self.query_one("#ev-axis", Draw).show(lambda width, _height: pictures.arms_axis(opened, metrics, width))
        self.query_one("#ev-arms", Section).head.set(note="95 % Wilson intervals")
        self._draw_square(opened, metric)
        self._draw_rows(opened)

    def _draw_square(self, opened: Opened, metric: str) -> None:
        item = opened.comparison(metric)
        self.query_one("#ev-square").display = item is not None
        if item is None:
            return
        paired, brief = item.paired, not self.tall
        counts: dict[evaluations.Cell, int] = {
            "both": paired.both, "broken": paired.broken, "fixed": paired.fixed, "neither": paired.neither,
        }  # fmt: skip
        first, second = one_line(item.first), one_line(item.second)
        self.query_one("#ev-cells", Square).set(counts, first, second, pictures.square_told(opened, metric, brief), flat=brief)
        self.query_one("#ev-square", Section).head.set(title=f"{named(first)} against {second}", note=label(metric))

    def _draw_rows(self, opened: Opened) -> None:
        seen, pane = self._seen, self.query_one("#ev-list", ListPane)
        head = self.query_one("#ev-rows", Section).head
        if seen is None:
            head.set(title="Rows", note="")
            pane.set(0, lambda _at, _width: Content(""))
            self.query_one("#ev-row").display = False
            return
        several = len(seen.kinds) != 1 and not seen.lens.kind
        pane.set(len(seen.rows), lambda at, width: pictures.row_line(seen.rows[at], seen.lens, several, width))
        where = f"{pane.cursor + 1:,} of {len(seen.rows):,}" if seen.rows else "none"
        metric = "" if seen.lens.metric == opened.headline else f"{label(seen.lens.metric)}, "
        head.set(title=seen.title, note=f"{metric}{where}")
        row = self._row
        self.query_one("#ev-row").display = row is not None and self.wide
        if row:
            versus = self._versus if self._versus in (*row.said, REFERENCE) else REFERENCE
            self.query_one("#ev-detail", Draw).show(partial(pictures.detail, opened, row, seen.lens, versus))
            score = row.scores.get(seen.lens.arm)
            kind = one_line(score.kind) if score and not score.holds else "holds" if score else ""
            self.query_one("#ev-row", Section).head.set(title=f"Line {row.asked.line:,}", note=kind)

    # Opening a report, and the rows behind a number

    def _open(self, folder: Path) -> None:
        if self._opening == folder or (self._broken and self._broken[0] == folder):
            return
        self._opening = folder
        self.fetch(lambda: evaluations.open_evaluation(folder), self._show_report, partial(self._unreadable, folder))

    def _unreadable(self, folder: Path, error: MlxtuneError) -> None:
        self._opening, self._opened, self._seen = None, None, None
        self._broken = (folder, error)
        self.show()

    def _show_report(self, opened: Opened) -> None:
        self._opened, self._opening, self._broken = opened, None, None
        if self._metric not in opened.metrics:
            self._metric = opened.headline
        table = self.query_one("#ev-table", ListPane)
        table.cursor = len(opened.report.arms) - 1
        self._seen = None
        self._look(evaluations.first_lens(opened), focus=False)
        self.show()
        if self.focused is None:
            self.query_one("#ev-list", ListPane).focus()

    def _look(self, lens: Lens, *, focus: bool = True) -> None:
        """Show the rows that ``lens`` shows."""
        if not self._opened or not self._opened.drill:
            return
        opened = self._opened
        self.fetch(lambda: evaluations.look(opened, lens), partial(self._looked, opened, focus))

    def _looked(self, opened: Opened, focus: bool, seen: Seen) -> None:
        if opened is not self._opened:
            return
        self._seen = seen
        self.query_one("#ev-list", ListPane).cursor = 0
        self.show()
        self.refresh_bindings()
        if focus:
            self.query_one("#ev-list", ListPane).focus()

    # Verbs

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

    # Starting and stopping

    def action_evaluate(self) -> None:
        if self.desk.can_start:
            asks.what(self.desk)

    def action_stop(self) -> None:
        if self._live:
            asks.stop(self.desk, self._live)


def _rows(made: Callable[[int], list[Content]]) -> Callable[[int], Sequence[tuple[Part, ...]]]:
    """Rows of content as a page takes them."""
    return lambda width: [(line(row),) for row in made(width)]
