"""Train: a run's figures, its loss, its samples and its log."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.core.text import ago
from mlxtune.present.run import LogLine, log_line
from mlxtune.present.words import WORDS
from mlxtune.present.workflow import brief_result, recipe_summary
from mlxtune.runs.launch import is_of
from mlxtune.runs.registry import ACTIVE, Run
from mlxtune.runs.state import RunState
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import RECIPE_KEY, invitation, key, line
from mlxtune.tui.room import NEW_RUN, Room
from mlxtune.tui.rooms.train import render
from mlxtune.tui.rooms.train.chart import LOSS, ChartMetric, RunChart, available_metrics
from mlxtune.tui.widgets import ChoiceOption, FocusPanel, Invitation, PageScreen, Panel, Section
from mlxtune.workspace.index import RunView, Snapshot, with_history

_MAX_COMPARED = 20  # runs to choose from


class SamplesPanel(FocusPanel):
    """The newest answers to validation rows."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.samples", "show all answers", id="samples.open")]


class LogPanel(FocusPanel):
    """The last lines of the log."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.log_page", "show every line", id="log.open")]


class TrainRoom(Room):
    """Shows the selected run or, by default, the newest one."""

    CSS_PATH = "style.tcss"
    SIDE = "#side"
    SAVED: ClassVar = {"zoomed": bool, "_metric_id": str, "_compared_id": str}
    ABOUT = "progress and result"
    ACTIONS = (
        Action("stop", "s", "stop", "save a checkpoint and stop", when="stoppable",
               why=lambda room: "It is stopping." if room.app.runs.stopping else room.app.runs.in_use or "Nothing is running.",
               command="runs stop {live}"),
        Action("resume", "r", "resume",
               when=lambda room: room.view and room.view.can_resume and room.app.runs.accelerator_free,
               why="Nothing to resume.", needs_accelerator=True, command="runs resume {run}"),
        NEW_RUN,
        Action("app.page('SearchPage')", "S", "search", "hyperparameter searches", when="app.snapshot.recipes", bound=False,
               command="search {recipe}"),
        Action("measure", "m", "metric", "show another metric",
               when=lambda room: room.steps and len(available_metrics(room.view.state)) > 1, why="No other metric."),
        Action("compare", "c", lambda room: "alone" if room.compared else "compare", "compare two runs",
               when="comparable_runs", why="No other run."),
        Action("zoom", "z", lambda room: "whole" if room.zoomed else "zoom", "the last fifth",
               when=lambda room: room.steps >= 10, why="Too few steps."),
        Action("samples", "g", "samples", "all validation answers", when="view.state.samples",
               why="No answers yet.", late="wide", command="runs show {run}"),
        Action("log_page", "L", "log", when=lambda room: room.view and (room.view.log or room.view.process_output),
               command="runs attach {run}"),
        Action("turn(1)", "[,down", "older", "the previous run",
               when=lambda room: room.index < len(room.app.snapshot.runs) - 1, why="No older run.", late="wide",
               id="older"),
        Action("turn(-1)", "],up", "newer", "the next run", when=lambda room: room.index > 0, why="No newer run.",
               late="wide", id="newer"),
        Action("checkpoints", "o", "checkpoints", "use a checkpoint", when="view.state.checkpoints",
               why="No checkpoint yet.", late=lambda room: True, command="eval {run}@STEP"),
        Action("app.page('QueuePage')", "Q", "queue", "the queue", when="app.snapshot.recipes", bound=False,
               command="queue list"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.zoomed = False
        self._metric_id = LOSS.id
        self._compared_id: str | None = None

    def compose_body(self) -> ComposeResult:
        yield Invitation("Train")
        yield Panel(id="stats")
        with Horizontal(id="charts"):
            yield Section("Loss", RunChart(id="loss"), lit=True, classes="fill", id="chart")
            with Vertical(id="side"):
                yield Section("Samples", SamplesPanel(id="samples-picture"), classes="fill", id="samples")
        yield Section("Log", LogPanel(id="log-picture"), id="log")

    @property
    def index(self) -> int:
        return next((index for index, view in enumerate(self.app.snapshot.runs) if view.id == self.app.selected), 0)

    @property
    def view(self) -> RunView | None:
        """The displayed run, with its history."""
        runs = self.app.snapshot.runs
        return with_history(runs[self.index]) if runs else None

    @property
    def steps(self) -> int:
        return len(self.view.state.steps) if self.view else 0

    @property
    def compared(self) -> RunView | None:
        """The run that the chart shows for comparison, with its history."""
        view, other = self.view, self.app.snapshot.find_run(self._compared_id or "")
        return with_history(other) if other and view and other.id != view.id else None

    def draw(self, snapshot: Snapshot) -> None:
        view = self.view
        in_use = self.app.runs.in_use
        self.invite(None if view else lambda width, _height: _empty_room(snapshot, in_use, width))
        if view is None:
            return
        self.set_class(not (view.state.steps or (view.alive and view.state.total)), "-bare")
        state, free, stopping = view.state, self.app.runs.accelerator_free, view.id in self.app.runs.stopping
        planned = self.app.planned if view.alive and not state.steps else None
        plan = planned.plan if planned and is_of(view.run, planned.complete) else None
        figures = partial(render.figures, view, snapshot.now, stopping=stopping, plan=plan)
        self.query_one("#stats", Panel).update(
            lambda width, _height: render.banner(view, snapshot, free, width) or figures(width=width)
        )
        self.query_one(RunChart).set(state, self._metric(state), self.compared, self.zoomed)
        self._draw_legend()
        self.query_one("#side").display = bool(state.samples) and self.wide
        if state.samples:
            newest = f"step {state.samples[-1].step:,}"
            self.section("#samples").show(lambda width, height: render.samples(state.samples, width, height), note=newest)
        self.query_one(LogPanel).update(lambda width, height: render.log(view.log, _process_lines(view)[-2:], width, height))

    def _metric(self, state: RunState) -> ChartMetric:
        return next((metric for metric in available_metrics(state) if metric.id == self._metric_id), LOSS)

    def _draw_legend(self) -> None:
        if view := self.view:
            chart, head = self.query_one(RunChart), self.section("#chart").head
            title = chart.metric.title
            if self.index:
                title += f" of {view.name}, {ago(self.app.snapshot.now - view.updated)}"
            head.set(title=title, note=chart.legend(head.size.width - len(title) - 6))

    on_run_chart_cursor_moved = _draw_legend

    def command_fields(self) -> Mapping[str, str]:
        views = {"run": self.view, "live": self.stoppable}
        return {name: view.id for name, view in views.items() if view}

    def copyable(self) -> tuple[str, str]:
        return (self.view.id, "the run's ID") if self.view else ("", "")

    @property
    def stoppable(self) -> RunView | None:
        """The run on show if it can be asked to stop, or else the run or search that uses this machine."""
        views = filter(None, (self.view, self.running("train"), self.running("search")))
        stopping = self.app.runs.stopping
        return next((one for one in views if one.status == "quiet" or (one.status in ACTIVE and one.id not in stopping)), None)

    @property
    def comparable_runs(self) -> list[RunView]:
        view = self.view
        if view is None or not view.state.steps:
            return []
        return [other for other in self.app.snapshot.runs if other.id != view.id and other.state.steps]

    def action_compare(self) -> None:
        """Draw another run for comparison, asking which if there are several, or hide it again."""
        others = self.comparable_runs
        if self.compared or len(others) == 1:
            self._compare_with(None if self.compared else others[0].id)
            return
        options = []
        for other in others[:_MAX_COMPARED]:
            about = f"{WORDS.statuses[other.status].text}, {brief_result(other)}, {ago(self.app.snapshot.now - other.updated)}"
            options.append(ChoiceOption(other.id, other.name, about))
        self.app.choose("Compare with which run?", options, self._compare_with)

    def _compare_with(self, id: str | None) -> None:
        self._compared_id = id
        self.redraw()

    def action_measure(self) -> None:
        if view := self.view:
            metrics = available_metrics(view.state)
            self._metric_id = metrics[(metrics.index(self._metric(view.state)) + 1) % len(metrics)].id
            self.redraw()

    def action_stop(self) -> None:
        if view := self.stoppable:
            self.app.runs.confirm_stop(view)

    def action_resume(self) -> None:
        if view := self.view:
            where = f" from {view.checkpoint:,}" if view.checkpoint is not None else ""
            self.app.runs.resume(view, f"Resuming {view.name}{where}.")

    def action_checkpoints(self) -> None:
        if view := self.view:
            losses = {item.step: f"validation loss {item.loss:.3f}" for item in view.state.validations}
            options = [
                ChoiceOption(view.run.at(step), f"Step {step:,}", losses.get(step, "")) for step in reversed(view.run.checkpoints)
            ]
            self.app.choose("Which checkpoint?", options, self._use_checkpoint)

    def _use_checkpoint(self, run: Run) -> None:
        def use(room: str) -> None:
            if room == "evaluate":
                self.app.run_to_evaluate = run
            else:
                self.app.adapter_to_load = run.adapter.relative_to(self.app.workspace).as_posix()
            self.app.action_room(room)

        options = [ChoiceOption("evaluate", "Evaluate"), ChoiceOption("chat", "Chat")]
        self.app.choose(f"Step {run.step:,}", options, use)

    def action_zoom(self) -> None:
        self.zoomed = not self.zoomed
        self.redraw()

    def action_samples(self) -> None:
        self.app.push_screen(
            PageScreen("Samples", lambda width: render.all_samples(self.view.state.samples, width) if self.view else [])
        )

    def action_log_page(self) -> None:
        def rows(width: int) -> list[Content]:
            view = self.view
            return render.log_rows((*filter(None, map(log_line, view.log)), *_process_lines(view)), width) if view else []

        self.app.push_screen(PageScreen("Log", rows, at_end=True))

    def action_turn(self, by: int) -> None:
        if runs := self.app.snapshot.runs:
            index = max(0, min(self.index + by, len(runs) - 1))
            self.app.selected = runs[index].id if index else None  # None follows the newest run, including later ones
            self.redraw()


def _empty_room(snapshot: Snapshot, in_use: Notice | None, width: int) -> Content:
    recipes = [view.recipe for view in snapshot.recipes if view.recipe]
    if not recipes:
        return invitation(width, "No runs yet.", RECIPE_KEY)
    if in_use:
        about = "" if in_use.kind == "working" else in_use.hint
        return invitation(width, in_use.text, key("P", "plan the next run meanwhile", "app.room('plan')"), about=about)
    several = len(snapshot.recipes) > 1
    start = key("n", "choose a recipe" if several else f"train {recipes[0].name}", "screen.new")
    summary = "" if several else f"   {recipe_summary(recipes[0])}"
    return invitation(width, "No runs yet.", line(start, (summary, "$muted")))


def _process_lines(view: RunView) -> list[LogLine]:
    """Return the worker's last output as log lines and, if it crashed, the evidence for that."""
    lines = [LogLine(view.updated, "✗", "error", f"worker.log: {text}") for text in view.process_output]
    if view.status == "crashed":
        lines.append(LogLine(view.updated, "!", "warning", "the process crashed: it wrote no final event and holds no lock"))
    return lines
