"""Train: one run's figures, its loss, its samples and its log; and the verbs that are possible for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.runs.narrate import Line
from mlxtune.runs.state import RunState
from mlxtune.tui.draw import Part, ago, fold, key, line, lines
from mlxtune.tui.measures import LOSS, Measure, measures
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot, recipe_summary
from mlxtune.tui.status import SIGNS, can_resume, result
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Verb
from mlxtune.tui.widgets.log_lines import log_picture, log_rows
from mlxtune.tui.widgets.pane import Pane
from mlxtune.tui.widgets.run_chart import RunChart
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.train_pictures import all_samples, banner, samples_picture, stats


class Samples(Pane):
    """What the model answered when it was last asked."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.samples", "all of them, whole", id="samples.open")]


class Log(Pane):
    """The last lines of a run's story."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.log_page", "every line", id="log.open")]


class Train(Room):
    """Shows the newest run, or the one that was chosen."""

    ROOM = "Train"
    ABOUT = "what a run does, and how it ended"
    VERBS = frozenset({"stop", "resume", "new", "compare", "measure", "zoom", "samples", "log_page", "older", "newer"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", "stop", id="train.stop"),
        Binding("r", "resume", "resume", id="train.resume"),
        Binding("n", "new", "new run", id="train.new"),
        Binding("c", "compare", "compare", id="train.compare"),
        Binding("m", "measure", "measure", id="train.measure"),
        Binding("z", "zoom", "zoom", id="train.zoom"),
        Binding("g", "samples", "samples", id="train.samples"),
        Binding("l", "log_page", "log", id="train.log"),
        Binding("left_square_bracket,down", "older", "older", id="train.older"),
        Binding("right_square_bracket,up", "newer", "newer", id="train.newer"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._zoomed = False
        self._measure = LOSS.id
        self._other: str | None = None  # the run to compare with

    def body(self) -> ComposeResult:
        yield Section("Train", Draw(id="invite"), lit=True, id="empty")
        yield Draw(id="stats")
        with Horizontal(id="charts"):
            yield Section("Loss", RunChart(id="loss"), lit=True, classes="fill", id="chart")
            with Vertical(id="side"):
                samples = Samples(
                    id="samples-picture", about="Answers to validation rows, as the run made them at its last validation."
                )
                yield Section("Samples", samples, classes="fill", id="samples")
        yield Section("Log", Log(id="log-picture", about="What the run said; a stretch of steps is one line here."), id="log")

    @property
    def view(self) -> RunView | None:
        """The run on show."""
        snapshot = self.desk.snapshot
        if snapshot is None:
            return None
        return snapshot.find(self.desk.selected) or next(iter(snapshot.runs), None)

    @property
    def _compared(self) -> RunView | None:
        """The run beside it in the chart."""
        snapshot, view = self.desk.snapshot, self.view
        other = snapshot.find(self._other) if snapshot and self._other else None
        return other if other is not view else None

    def draw(self, snapshot: Snapshot) -> None:
        view = self.view
        self.set_class(view is None, "-empty")
        self.set_class(view is not None and not view.state.steps, "-bare")
        if view is None:
            starts = self.desk.can_start
            self.query_one("#invite", Draw).show(lambda width, _height: invite(snapshot, starts, width))
            return
        state, free = view.state, snapshot.live is None and not self.desk.busy
        self.query_one("#stats", Draw).show(
            lambda width, _height: banner(view, snapshot, free, width) or stats(view, snapshot.now, width)
        )  # fmt: skip
        self.query_one(RunChart).set(state, self._measured(state), self._compared, self._zoomed)
        self._legend()
        self.query_one("#side").display = bool(state.samples) and self.wide
        if state.samples:
            self.query_one(Samples).show(lambda width, height: samples_picture(state.samples, width, height))
            self.query_one("#samples", Section).head.set(note=f"step {state.samples[-1].step:,}")
        log = (*view.digest, *last_words(view)[-2:])
        self.query_one(Log).show(lambda width, height: log_picture(log, width, height))

    def _measured(self, state: RunState) -> Measure:
        return next((one for one in measures(state) if one.id == self._measure), LOSS)

    def _legend(self) -> None:
        """The chart's title, and what its signs mean."""
        snapshot, view = self.desk.snapshot, self.view
        if snapshot and view:
            chart, head = self.query_one(RunChart), self.query_one("#chart", Section).head
            title = chart.measure.title
            if snapshot.runs.index(view):
                title += f" of {view.name}, {ago(snapshot.now - view.updated)}"
            head.set(title=title, note=chart.legend(head.size.width - len(title) - 6))

    def on_run_chart_crossed(self) -> None:
        self._legend()

    def remember(self) -> Mapping[str, Any]:
        return {"zoomed": self._zoomed, "measure": self._measure, "compare": self._other}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._zoomed, self._measure = bool(left["zoomed"]), str(left["measure"])
        self._other = str(left["compare"]) if left["compare"] else None

    def verbs(self) -> Sequence[Verb]:
        snapshot, view = self.desk.snapshot, self.view
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        new = [Verb("n", "new", "new", "start a new run")] if self.desk.can_start else []
        if snapshot is None or view is None:
            return [*new, quit_]
        verbs: list[Verb] = []
        if view.status in ("running", "quiet") and (view.id not in self.desk.stopping or view.status == "quiet"):
            verbs.append(
                Verb("s", "stop", "stop", "stop the run at a checkpoint; asks first. It is the pause, too: r goes on from there")
            )
        if can_resume(view) and snapshot.live is None and not self.desk.busy:
            verbs.append(Verb("r", "resume", "resume", "go on from the newest checkpoint"))
        verbs += new
        if len(measures(view.state)) > 1 and view.state.steps:
            verbs.append(
                Verb("m", "measure", "measure", "the loss, rewards, their margin, accuracy, or how far from the reference")
            )
        if self._others():
            word = "alone" if self._compared else "compare"
            verbs.append(Verb("c", word, "compare", "put the course of another run beside this one, or take it away"))
        if len(view.state.steps) >= 10:
            verbs.append(Verb("z", "whole" if self._zoomed else "zoom", "zoom", "show the last fifth, or the whole run"))
        if view.state.samples and not self.wide:
            verbs.append(Verb("g", "samples", "samples", "what the model answers as it learns"))
        if view.log or view.tail:
            verbs.append(Verb("l", "log", "log_page", "every line of the log"))
        if view.state.samples and self.wide:
            verbs.append(Verb("g", "samples", "samples", "what the model answered, all of it, at every validation"))
        at = snapshot.runs.index(view)
        if at < len(snapshot.runs) - 1:
            verbs.append(Verb("[", "older", "older", "the run before this one"))
        if at > 0:
            verbs.append(Verb("]", "newer", "newer", "the run after this one"))
        return [*verbs, quit_]

    def _others(self) -> list[RunView]:
        """The runs that this one can be compared with, newest first."""
        snapshot, view = self.desk.snapshot, self.view
        if snapshot is None or view is None or not view.state.steps:
            return []
        return [other for other in snapshot.runs if other is not view and other.state.steps]

    def action_compare(self) -> None:
        """Put another run's course beside this one's; ask which, where there are several. Once more takes it away."""
        snapshot, others = self.desk.snapshot, self._others()
        if self._compared or len(others) == 1 or snapshot is None:
            self._beside(None if self._compared else others[0].id)
            return
        choices = [
            Choice(other.id, other.name, f"{SIGNS[other.status].word}, {result(other)}, {ago(snapshot.now - other.updated)}")
            for other in others[:20]
        ]
        self.app.push_screen(Choose("Compare with which run?", "", choices), lambda id: self._beside(id or None))

    def _beside(self, id: str | None) -> None:
        self._other = id
        self.show()

    def action_measure(self) -> None:
        """Draw the next of what there is to draw."""
        if view := self.view:
            there = measures(view.state)
            self._measure = there[(there.index(self._measured(view.state)) + 1) % len(there)].id
            self.show()

    def action_stop(self) -> None:
        if self.view:
            self.desk.ask_to_stop(self.view)

    def action_resume(self) -> None:
        if self.view:
            self.desk.resume_run(self.view)

    def action_new(self) -> None:
        self.desk.new_run()

    def action_zoom(self) -> None:
        self._zoomed = not self._zoomed
        self.show()

    def action_samples(self) -> None:
        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            return all_samples(view.state.samples, width) if (view := self.view) else []

        self.app.push_screen(Page("Samples", rows))

    def action_log_page(self) -> None:
        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            return log_rows((*view.log, *last_words(view)), width) if (view := self.view) else []

        self.app.push_screen(Page("Log", rows, at_end=True))

    def action_older(self) -> None:
        self._go(1)

    def action_newer(self) -> None:
        self._go(-1)

    def _go(self, by: int) -> None:
        snapshot, view = self.desk.snapshot, self.view
        if snapshot and view:
            at = max(0, min(snapshot.runs.index(view) + by, len(snapshot.runs) - 1))
            self.desk.selected = snapshot.runs[at].id if at else None  # the newest is followed, whichever that will be
            self.show()


def last_words(view: RunView) -> list[Line]:
    """What the worker's process printed before it died, and why this is a crash."""
    printed = [Line(view.updated, "✗", "error", f"worker.log: {text}") for text in view.tail]
    if view.status == "crashed":
        printed.append(Line(view.updated, "!", "warning", "nothing more was heard and the lock is free: crashed, not slow"))
    return printed


def invite(snapshot: Snapshot, starts: bool, width: int) -> Content:
    """The room before there is anything: what it is for, what it takes, one key."""
    good = [view.recipe for view in snapshot.recipes if view.recipe]
    rows = [
        fold("Nothing has been trained yet.", width, style="bold"),
        fold("A run learns an adapter from the rows of a recipe. Its loss, its log and its checkpoints are kept in runs/.", width),
        Content(""),
    ]
    if good and starts:
        many = len(snapshot.recipes) > 1
        what = "choose a recipe" if many else f"train {good[0].name}"
        rows.append(
            line("  ", key("n", what, "screen.new"), ("" if many else f"   {recipe_summary(good[0])}", "$muted")).truncate(
                max(width, 0)
            )
        )
    elif not good:
        rows.append(line("  ", key("H", "go home: a sample workspace is one key away", "app.room('home')")))
    return lines(*rows)
