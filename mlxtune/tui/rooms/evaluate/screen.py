"""Evaluate: whether training helped, by how much, and the rows behind every number."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from operator import call
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.advice.next_step import after_evaluation
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import display_path
from mlxtune.core.text import ago, one_line, plural
from mlxtune.evaluation.arms import arm_names
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side
from mlxtune.evaluation.drilldown import FailureClass, ScoredRow, failure_classes, has_few_updates, load_failure_classes
from mlxtune.evaluation.evidence import load_off_task
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.comparison import comparison_document
from mlxtune.present.labels import failure_name
from mlxtune.present.report import failure_class_text, report_document
from mlxtune.present.words import WORDS
from mlxtune.recipe import Recipe, load
from mlxtune.runs.registry import Run
from mlxtune.tui import draw
from mlxtune.tui.actions import Action
from mlxtune.tui.generate_flow import choose_teacher
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import error_rows, lines, paragraph
from mlxtune.tui.room import NO_RECIPE, Room
from mlxtune.tui.rooms.evaluate import render, service
from mlxtune.tui.rooms.evaluate.paired_table import PairedTable
from mlxtune.tui.rooms.evaluate.service import FilteredRows, LoadedReport, RowFilter, arm_title
from mlxtune.tui.widgets import ChoiceOption, FocusPanel, Invitation, ListPanel, PageScreen, Panel, Section
from mlxtune.workspace import control
from mlxtune.workspace.index import RunView, Snapshot

REFERENCE = "reference"
MAX_GROUPS = 8  # groups of failing rows offered
MAX_RUNS = 8  # recent runs offered for evaluation


class EvaluateRoom(Room):
    """Shows the newest report or the selected one, below any running evaluation."""

    ABOUT = "whether training helped"
    CSS_PATH = "style.tcss"
    SIDE = "#ev-left"
    RUN_KIND = "eval"
    SAVED: ClassVar = {"evaluation": str, "_newest": str, "_metric": str}
    AUTO_FOCUS = "#ev-list"
    ACTIONS = (
        Action("enter", "enter", lambda room: room.enter_label, "open the item", when="enter_label"),
        Action("evaluate", "n", lambda room: "new" if room.report else "", "evaluate", when="app.runs.can_start",
               why=NO_RECIPE, needs_accelerator=True, command="eval {run}"),
        Action("metric", "m", "metric", when=lambda room: room.report and len(room.report.metrics) > 1,
               why="No other metric."),
        Action("versus", "v", "versus", "show another answer",
               when=lambda room: room._row and room.rows and {*room._row.answers} - {room.rows.filter.arm},
               why="No other answer."),
        Action("review", "f", "review", "review similar rows", when="can_review"),
        Action("generate", "w", "write", "let a teacher write similar rows",
               when=lambda room: room.can_review and room.app.runs.can_start, needs_accelerator=True,
               command="data generate {recipe}"),
        Action("stop", "s", "stop", when=lambda room: room.running("eval"), why="No evaluation running.",
               command="runs stop {evaluation}"),
        Action("compare", "c", "compare", "compare two reports", when=lambda room: room.report and room.has_others,
               command="compare OTHER {evaluation}"),
        Action("other", "o", "open", "open another report", when="has_others", why="No other report."),
        Action("html", "O", "html", "show the HTML report", when="report.html", command="report {evaluation} --open"),
        Action("off_task", "g", "off task", "the off-task answers", when="report.report.off_task",
               why="Not measured."),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.evaluation: str | None = None  # the id of the selected report; None: the newest
        self._newest = ""  # the ID of the newest report when the room was last drawn
        self.report: LoadedReport | None = None
        self._folder: Path | None = None  # that the report was last read from
        self._load_error: MlxtuneError | None = None
        self._metric = ""
        self._versus = REFERENCE  # the arm whose answer is shown next to the filter's arm
        self.rows: FilteredRows | None = None

    def compose_body(self) -> ComposeResult:
        yield Panel(id="ev-error")
        yield Invitation("Verdict")
        yield Section("Evaluating", Panel(id="ev-progress"), id="ev-now")
        with Vertical(id="ev-report"):
            yield Section("Verdict", FocusPanel(id="ev-summary"), id="ev-verdict")
            yield Section("Arms", ListPanel(id="ev-table"), Panel(id="ev-axis"), id="ev-arms")
            with Horizontal(id="ev-columns"):
                with Vertical(id="ev-left"):
                    yield Section("", PairedTable(id="ev-cells"), id="ev-square")
                    yield Section("", ListPanel(id="ev-list"), id="ev-rows", classes="fill")
                yield Section("", Panel(id="ev-detail"), id="ev-row", classes="fill")

    @property
    def _unfinished(self) -> RunView | None:
        """The newest evaluation if it ended without a report. It can be continued."""
        newest = next(iter(self.app.snapshot.evals), None)
        return newest if newest and newest.status in ("failed", "crashed", "stopped") and not self.running("eval") else None

    @property
    def _is_reading(self) -> bool:
        """Whether the first report is being read, so that there is nothing else to show."""
        return self._folder is not None and self.report is None and self._load_error is None

    @property
    def _row(self) -> ScoredRow | None:
        return self.query_one("#ev-list", ListPanel).pick(self.rows.rows) if self.rows else None

    def command_fields(self) -> Mapping[str, str]:
        row = self._row
        shown = {"evaluation": self.report.folder.name} if self.report else {}
        return {"row": row.row.id, **shown} if row else shown

    def copyable(self) -> tuple[str, str]:
        row, found = self._row, self.rows
        answer = row.answers.get(found.filter.arm) if row and found else None
        return (answer.output, f"the answer from {one_line(found.filter.arm)}") if answer and found else ("", "")

    @property
    def can_review(self) -> bool:
        row = self._row
        return row is not None and bool(row.nearest)

    def draw(self, snapshot: Snapshot) -> None:
        newest = next((view.id for view in self.app.selection.evaluations), "")
        if self._newest and newest != self._newest:
            self.evaluation = newest or None  # show an evaluation that has finished since, whatever its recipe
        self._newest = newest
        wanted = self.app.selection.preferred_evaluation(self.evaluation, self.app.selection.evaluations)
        live = self.running("eval")
        if wanted and wanted.run.folder != self._folder:
            self._load_report(wanted.run.folder)
        if wanted is None:
            self._forget_report()
        self.query_one("#ev-now").display = live is not None
        self.query_one("#ev-report").display = self.report is not None
        if self.report is None and self.focused:
            self.set_focus(None)  # otherwise a hidden widget would keep the focus
        self._draw_state(snapshot, live, wanted)
        if self.report:
            self._draw_report(self.report)

    def _draw_state(self, snapshot: Snapshot, live: RunView | None, wanted: RunView | None) -> None:
        failed = self._unfinished
        error = self.report.evidence_error if self.report else self._load_error
        self.set_class(failed is not None or error is not None, "-error")
        panel = self.query_one("#ev-error", Panel)
        if error:
            shown = error if error.hint else MlxtuneError(error.message, hint="Evaluate again, or choose another report.")
            panel.update(lambda width, _height: lines(*error_rows(shown, width)))
        elif failed:
            subject = self.app.selection.evaluated_name(failed)
            panel.update(lambda width, _height: render.failure(failed, subject, width))
        if live:
            now, planned = self.section("#ev-now"), service.planned_arms(live.run)
            now.head.set(lit=wanted is None)
            now.show(lambda width, _height: render.progress(live, planned, snapshot.now, width), title=f"Evaluating {live.name}")
        if live is None and self._is_reading:
            self.invite(lambda width, _height: paragraph("Reading the report.", width))
        elif live is None and wanted is None:
            recipe = self.app.selection.recipe.recipe if self.app.selection.recipe else None
            name, arms = (one_line(recipe.name), arm_names(recipe)) if recipe else ("", ())
            rows = next((view.rows[2] for view in snapshot.runs if view.rows), 0)
            rows = min(rows, recipe.evaluation.rows) if recipe and recipe.evaluation.rows else rows
            is_free = snapshot.live is None
            self.invite(lambda width, _height: render.empty_state(name, arms, rows, is_free, width))
        else:
            self.invite(None)

    def _draw_report(self, loaded: LoadedReport) -> None:
        report, max_rows = loaded.report, 2 if not self.tall else 3 if self.app.size.height < 40 else 5
        step = after_evaluation(loaded.folder, self.app.snapshot)
        run_id = str(report.facts.get("run", ""))
        subject = self.app.selection.adapter_name(run_id) if run_id else one_line(str(report.facts.get("name", "")))
        note = f"{plural(int(report.facts.get('rows', 0)), 'held-out row')}, never trained on"
        self.section("#ev-verdict").show(
            lambda width, _height: render.verdict(loaded, step, width, max_rows), title=f"Verdict on {subject}", note=note
        )
        second = loaded.second_metric(self._metric) if self.wide else None
        metrics = [self._metric, *([second] if second else [])]
        table = self.query_one("#ev-table", ListPanel)
        table.styles.height = len(report.arms) + 1
        table.set(
            len(report.arms),
            lambda index, width: render.arm_row(report.arms[index], metrics, width),
            header=lambda width: render.arms_header(metrics, width),
            on_move=lambda _: self.redraw(),
        )
        self.query_one("#ev-axis", Panel).update(lambda width, _height: render.arms_axis(metrics, width))
        self.section("#ev-arms").head.set(note="95% Wilson intervals")
        item, section = loaded.comparison(self._metric), self.section("#ev-square")
        section.display = item is not None
        if item:
            self.query_one("#ev-cells", PairedTable).set(item, flat=not self.tall)
            section.head.set(title=f"{arm_title(item.first)} vs. {one_line(item.second)}", note=metric_label(self._metric))
        self._draw_rows(loaded)

    def _draw_rows(self, loaded: LoadedReport) -> None:
        found, row = self.rows, self._row
        rows, head = self.query_one("#ev-list", ListPanel), self.section("#ev-rows").head
        self.query_one("#ev-row").display = row is not None and self.wide
        if found is None:
            head.set(title="Rows", note="")
            rows.set(0, lambda _index, _width: Content(""))
            return
        filter, with_kind = found.filter, not found.is_of_one_kind
        rows.set(
            len(found.rows), lambda at, width: render.row_line(found.rows[at], filter, with_kind, width),
            on_move=lambda _: self.redraw(),
        )  # fmt: skip
        position = f"row {rows.cursor + 1:,} of {len(found.rows):,}" if found.rows else "none"
        metric = "" if filter.metric == loaded.report.headline_metric else f"{metric_label(filter.metric)}, "
        head.set(title=found.title, note=f"{metric}{position}")
        if row:
            versus = self._versus if self._versus in row.answers else REFERENCE
            score = row.scores.get(filter.arm)
            note = "" if score is None else "passes" if score.passed else one_line(failure_name(score.kind))
            detail = partial(render.row_detail, loaded, row, filter, versus)
            self.section("#ev-row").show(detail, title=row.row.location.place.capitalize(), note=note)

    def _load_report(self, folder: Path) -> None:
        def failed(error: MlxtuneError) -> None:
            self.report, self.rows, self._load_error = None, None, error

        self._folder, self._load_error = folder, None
        self.run_job(lambda: service.load_report(folder), self._show_report, failed, group="report")

    def _forget_report(self) -> None:
        self.report = self.rows = self._folder = self._load_error = None

    def _show_report(self, loaded: LoadedReport) -> None:
        self.report, self.rows = loaded, None
        if self._metric not in loaded.metrics:
            self._metric = loaded.report.headline_metric
        self.query_one("#ev-table", ListPanel).cursor = loaded.report.arms.index(loaded.report.subject)
        item, shown = loaded.comparison(self._metric), RowFilter(self._metric, loaded.report.subject.name)
        if item and item.paired.fixed:  # what the training fixed, before and after
            shown = RowFilter(self._metric, item.second, cell="fixed", baseline=item.first)
            self.query_one("#ev-cells", PairedTable).cell = "fixed"
        self._find_rows(shown, focus=False)
        self.redraw()
        if self.focused is None:
            self.set_focus(self.query_one("#ev-list", ListPanel))

    def _find_rows(self, filter: RowFilter, *, focus: bool = True) -> None:
        loaded = self.report

        def show(found: FilteredRows) -> None:
            if loaded is not self.report:
                return
            if self.rows is None or self.rows.filter.baseline != found.filter.baseline:
                self._versus = found.filter.baseline or REFERENCE  # before and after
            before, self.rows = self._row, found
            rows = self.query_one("#ev-list", ListPanel)
            same = (index for index, one in enumerate(found.rows) if before and one.row.id == before.row.id)
            rows.cursor = 0 if focus else next(same, 0)
            if focus:
                self.set_focus(rows)

        if loaded and loaded.drilldown:
            self.run_job(lambda: service.find_rows(loaded, filter), show, group="rows")

    @property
    def enter_label(self) -> str:
        """What enter opens, or an empty string if there is nothing to open."""
        if self.report is None:
            return "evaluate" if self.app.runs.can_start and not self._is_reading else ""
        focus = self.focused.id or "" if self.focused else ""
        return "" if focus == "ev-list" and self._row is None else {"ev-summary": "report", "ev-list": "row"}.get(focus, "rows")

    @property
    def has_others(self) -> bool:
        return len(self.app.selection.evaluations) > (1 if self.report else 0)

    def action_enter(self) -> None:
        """Handle enter outside the lists."""
        if self._is_reading:
            return
        if self.report is None:
            self.action_evaluate()
        elif isinstance(self.focused, PairedTable):
            self.focused.action_choose()
        else:
            loaded = self.report

            def show(classes: list[FailureClass]) -> None:
                document = report_document(loaded.report, classes=classes)
                self.app.push_screen(PageScreen("Report", cache(partial(draw.rows, document))))

            self.run_job(partial(load_failure_classes, loaded.folder, loaded.report), show)

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        loaded, found, row = self.report, self.rows, self._row
        if event.panel.id == "ev-table" and loaded:
            self._find_rows(RowFilter(self._metric, loaded.report.arms[event.index].name))
        elif event.panel.id == "ev-list" and loaded and found and row:
            page = partial(render.row_page, loaded, row, found.filter)
            self.app.push_screen(PageScreen(row.row.location.place.capitalize(), page))

    def on_paired_table_cell_selected(self, event: PairedTable.CellSelected) -> None:
        item = self.report.comparison(self._metric) if self.report else None
        if item:
            self._find_rows(RowFilter(self._metric, item.second, cell=event.cell, baseline=item.first))

    def action_metric(self) -> None:
        if self.report:
            metrics = self.report.metrics
            self._metric = metrics[(metrics.index(self._metric) + 1) % len(metrics)]
            shown = self.rows.filter if self.rows else RowFilter(self._metric, self.report.report.subject.name)
            self._find_rows(replace(shown, metric=self._metric), focus=False)
            self.redraw()

    def action_versus(self) -> None:
        row, found = self._row, self.rows
        if row and found:
            arms = [REFERENCE, *(arm for arm in row.answers if arm != found.filter.arm)]
            index = arms.index(self._versus) if self._versus in arms else 0
            self._versus = arms[(index + 1) % len(arms)]
            self.redraw()

    def action_review(self) -> None:
        near = self._row.nearest if self._row else ()
        if len(near) == 1:
            self._open_review(near[0].id)
            return
        options = [
            ChoiceOption(one.id, f"{one_line(one.file, 24)}, {one.location.place}", f"{one.similarity:.0%} similar") for one in near
        ]
        self.app.choose("Which training row?", options, self._open_review)

    def _open_review(self, id: str) -> None:
        if self.report:
            self.app.selection.select_recipe(str(self.report.report.facts.get("name", "")))
        self.app.sessions.open_file(None)  # the recipe's source, even if another file is open
        self.app.row_to_open = id
        self.app.action_room("review")

    def action_generate(self) -> None:
        """Ask for a group of failing rows, and have a teacher write rows like their nearest training rows."""
        loaded, found, row = self.report, self.rows, self._row
        if loaded is None or found is None or row is None:
            return
        few = has_few_updates(loaded.report.facts)
        classes = [one for one in failure_classes(found.rows, found.filter.arm, has_few_updates=few) if one.nearest]
        classes.sort(key=lambda one: row not in one.rows)  # the one under the cursor first
        recipes, own = self.app.snapshot.recipes, loaded.report.facts.get("name")
        recipe = next((view for view in recipes if view.recipe and view.recipe.name == own), None)
        if not classes or recipe is None:
            text = "There are no training rows to use as examples." if recipe else "The recipe of this report is not in recipes/."
            self.app.notices.show(Notice("warning", text))
            return

        options = []
        for one in classes[:MAX_GROUPS]:
            name = f"{len(one.rows):,} {failure_class_text(one)}"
            options.append(ChoiceOption(tuple(near.id for near in one.nearest), name, WORDS.remedies[one.remedy]))
        text = "The teacher sees the training rows nearest to these, never the held-out rows themselves."
        title = "Write training rows for which failures?"
        self.app.choose(title, options, lambda rows: choose_teacher(self.app, recipe.path, "variations", rows=rows), text)

    def action_html(self) -> None:
        if self.report and self.report.html:
            path = display_path(self.report.html, self.app.workspace, str(self.report.html))
            self.app.notices.show(Notice("note", f"The HTML report is at {path}.", "Open it in a browser."))

    def action_other(self) -> None:
        self.app.selection.choose_evaluation("Which report?", self.app.selection.evaluations, self._select)

    def _select(self, view: RunView) -> None:
        self.evaluation = view.id
        self._forget_report()
        self.redraw()

    def action_compare(self) -> None:
        if self.report:
            own = self.report.folder.name
            others = [view for view in self.app.selection.evaluations if view.id != own]
            self.app.selection.choose_evaluation("Compare with which report?", others, partial(self._compare, own))

    def _compare(self, own: str, other: RunView) -> None:
        workspace = self.app.workspace
        self.app.commands.add("compare", other.id, own)

        def show(result: EvaluationComparison) -> None:
            self.app.push_screen(PageScreen("Comparison", cache(partial(draw.rows, comparison_document(result)))))

        self.run_job(lambda: compare_evaluations(find_side(workspace, other.id), find_side(workspace, own)), show)

    def action_off_task(self) -> None:
        if (loaded := self.report) and (result := loaded.report.off_task):

            def show(evidence: tuple[tuple[OffTaskPrompt, ...], dict[str, list[str]]]) -> None:
                self.app.push_screen(PageScreen("Off task", cache(partial(render.off_task_page, result, *evidence))))

            self.run_job(partial(load_off_task, loaded.folder), show)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        snapshot, run = self.app.snapshot, self.app.run_to_evaluate
        self.app.run_to_evaluate = None
        view = snapshot.find_run(run.folder.name) if run else None
        if view is not None and not self.app.runs.can_start:
            self.app.notices.show(self.app.runs.in_use)
        elif view is not None and run is not None:
            recipes = self._recipes_for(view, snapshot, _recipe_paths(snapshot).get(view.name))
            if len(recipes) == 1:
                self._choose_arms(run, recipes[0][0])
                return
            options = [ChoiceOption(path, about) for path, about in recipes]
            self.app.choose(f"Evaluate {view.name} by which recipe?", options, partial(self._choose_arms, run))

    def _recipes_for(self, view: RunView, snapshot: Snapshot, path: Path | None) -> list[tuple[Path, str]]:
        """Return the recipes to evaluate a run by, described: its own and, before it, the one at ``path`` if that evaluates differently."""
        own = view.run.folder / "recipe.toml"
        if path and service.has_other_evaluation(view.run, path):
            return [(path, "by the recipe as it is now"), (own, "by its own recipe")]
        return [(own, f"trained {ago(snapshot.now - view.updated)}")]

    def action_evaluate(self) -> None:
        snapshot = self.app.snapshot
        if not self.app.runs.can_start:
            self.app.notices.show(self.app.runs.in_use)
            return
        unfinished = self._unfinished
        if unfinished and unfinished.status == "failed" and not unfinished.state.arms:
            unfinished = None  # it would fail again
        runs = [view for view in snapshot.runs if view.run.has_adapter or (view.can_resume and view.run.checkpoints)][:MAX_RUNS]
        options: list[ChoiceOption] = []
        paths = _recipe_paths(snapshot)
        for view in runs:
            for path, about in self._recipes_for(view, snapshot, paths.pop(view.name, None)):  # for the newest run of a recipe only
                start = partial(self._choose_arms, view.run.with_adapter(), path)
                options.append(ChoiceOption(start, self.app.selection.adapter_name(view.id), about))
        for recipe in snapshot.recipes:
            if recipe.recipe:
                options.append(ChoiceOption(partial(self._choose_arms, None, recipe.path), recipe.title, "its base alone"))
        if unfinished:
            label = WORDS.statuses[unfinished.status].text
            detail = f"{label} {ago(snapshot.now - unfinished.updated)}; its answers are kept"
            resume = partial(self.app.runs.resume, unfinished, f"Continuing {unfinished.name}.")
            options.insert(0, ChoiceOption(resume, f"Continue {unfinished.name}", detail))
        self.app.choose("Evaluate what?", options, call)

    def _choose_arms(self, run: Run | None, path: Path) -> None:
        workspace = self.app.workspace

        def count() -> tuple[Recipe, list[ChoiceOption], str]:
            recipe = run.recipe() if run and path.parent == run.folder else load(path)
            return recipe, *service.evaluation_options(workspace, recipe, run)

        def ask(counted: tuple[Recipe, list[ChoiceOption], str]) -> None:
            recipe, options, first = counted

            def start(value: tuple[tuple[str, ...], bool]) -> None:
                (arms, all_rows), section = value, recipe.evaluation
                section = replace(section, arms=list(arms), rows=0 if all_rows else section.rows)
                chosen = replace(recipe, evaluation=section)
                which = [run.id] if run and path.parent == run.folder else [path, *(["--adapter", run.id] if run else [])]
                rows = ["--set", "evaluation.rows=0"] if all_rows else []
                self.app.commands.add("eval", *which, "--set", f"evaluation.arms={json.dumps(section.arms)}", *rows)
                self.app.runs.start_worker(lambda: control.evaluate(workspace, chosen, run), busy="Starting the evaluation.")

            if len(options) > 1:
                self.app.choose("Which arms?", options, start, first)
            else:
                start(options[0].value)

        self.app.jobs.run(count, ask, busy="Counting the held-out rows.", holds_keys=True)


def _recipe_paths(snapshot: Snapshot) -> dict[str, Path]:
    return {item.recipe.name: item.path for item in snapshot.recipes if item.recipe}
