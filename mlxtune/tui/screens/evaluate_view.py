"""What Evaluate shows: the verdict, the arms, the square and the rows behind it; its verbs are in ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.tui import evaluations
from mlxtune.tui.evaluations import Lens, Opened, Seen, label, named
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.widgets import evaluate_pages as pages
from mlxtune.tui.widgets import evaluate_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.pane import ListPane, Pane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.square import Square

if TYPE_CHECKING:
    from mlxtune.evaluation.drill import Row


REFERENCE = "reference"


class EvaluateView(Room):
    """The part of the room that shows."""

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
        told, live = self.query_one("#ev-told", Pane), self._live
        told.show(lambda width, _height: pictures.verdict(opened, live, width, most))
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

    def _open(self, folder: Path) -> None:
        if self._opening == folder or (self._broken and self._broken[0] == folder):
            return
        self._opening = folder
        self.fetch(
            lambda: evaluations.open_evaluation(folder), self._show_report, partial(self._unreadable, folder), group="report"
        )

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
        self.fetch(lambda: evaluations.look(opened, lens), partial(self._looked, opened, focus), group="rows")

    def _looked(self, opened: Opened, focus: bool, seen: Seen) -> None:
        if opened is not self._opened:
            return
        self._seen = seen
        self.query_one("#ev-list", ListPane).cursor = 0
        self.show()
        self.refresh_bindings()
        if focus:
            self.query_one("#ev-list", ListPane).focus()
