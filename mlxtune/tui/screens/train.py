"""Train: one run's figures, its loss, its samples and its log; and the verbs that are possible for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.runs.narrate import Line
from mlxtune.tui.draw import Part, age, fold, key, line, lines
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot, recipe_summary
from mlxtune.tui.status import can_resume
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Verb
from mlxtune.tui.widgets.log_lines import log_picture, log_rows
from mlxtune.tui.widgets.loss_chart import LossChart
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.train_pictures import banner, newest, sample_rows, samples_picture, stats


class Train(Room):
    """Shows the newest run, or the one that was chosen."""

    ROOM = "Train"
    ABOUT = "what a run does, and how it ended"
    VERBS = frozenset({"stop", "resume", "new", "zoom", "samples", "log_page", "older", "newer"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", "stop", id="train.stop"),
        Binding("r", "resume", "resume", id="train.resume"),
        Binding("n", "new", "new run", id="train.new"),
        Binding("z", "zoom", "zoom", id="train.zoom"),
        Binding("g", "samples", "samples", id="train.samples"),
        Binding("l", "log_page", "log", id="train.log-page"),
        Binding("left_square_bracket,down", "older", "older", id="train.older"),
        Binding("right_square_bracket,up", "newer", "newer", id="train.newer"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._zoomed = False

    def body(self) -> ComposeResult:
        yield Section("Train", Draw(id="invite"), lit=True, id="empty")
        yield Draw(id="stats")
        with Horizontal(id="charts"):
            yield Section("Loss", LossChart(id="loss"), lit=True, classes="fill", id="chart")
            with Vertical(id="side"):
                yield Section("Samples", Draw(id="samples-picture"), classes="fill", id="samples")
        yield Section("Log", Draw(id="log-picture"), id="log")

    @property
    def view(self) -> RunView | None:
        """The run on show."""
        snapshot = self.desk.snapshot
        if snapshot is None:
            return None
        return snapshot.find(self.desk.selected) or next(iter(snapshot.runs), None)

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
        chart = self.query_one(LossChart)
        chart.set(state, self._zoomed)
        head = self.query_one("#chart", Section).head
        title = self._title(view, snapshot)
        head.set(title=title, note=chart.legend(head.size.width - len(title) - 6))
        self.query_one("#side").display = bool(state.samples) and not self._narrow
        if state.samples:
            self.query_one("#samples-picture", Draw).show(lambda width, height: samples_picture(state.samples, width, height))
            self.query_one("#samples", Section).head.set(note=f"step {state.samples[-1].step:,}")
        log = (*view.digest, *last_words(view)[-2:])
        self.query_one("#log-picture", Draw).show(lambda width, height: log_picture(log, width, height))

    @property
    def _narrow(self) -> bool:
        return not self.wide

    def _title(self, view: RunView, snapshot: Snapshot) -> str:
        at = snapshot.runs.index(view)
        return "Loss" if at == 0 else f"Loss of {view.name}, {age(snapshot.now - view.updated)} ago"

    def verbs(self) -> Sequence[Verb]:
        snapshot, view = self.desk.snapshot, self.view
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        new = [Verb("n", "new", "new", "start a new run")] if self.desk.can_start else []
        if snapshot is None or view is None:
            return [*new, quit_]
        verbs: list[Verb] = []
        if view.status in ("running", "quiet") and (view.id not in self.desk.stopping or view.status == "quiet"):
            verbs.append(Verb("s", "stop", "stop", "stop the run; asks first"))
        if can_resume(view) and snapshot.live is None and not self.desk.busy:
            verbs.append(Verb("r", "resume", "resume", "go on from the newest checkpoint"))
        verbs += new
        if len(view.state.steps) >= 10:
            verbs.append(Verb("z", "whole" if self._zoomed else "zoom", "zoom", "show the last fifth, or the whole run"))
        if view.state.samples and self._narrow:
            verbs.append(Verb("g", "samples", "samples", "what the model answers as it learns"))
        if view.log or view.tail:
            verbs.append(Verb("l", "log", "log_page", "every line of the log"))
        at = snapshot.runs.index(view)
        if at < len(snapshot.runs) - 1:
            verbs.append(Verb("[", "older", "older", "the run before this one"))
        if at > 0:
            verbs.append(Verb("]", "newer", "newer", "the run after this one"))
        return [*verbs, quit_] if len(verbs) < 6 else verbs

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
            return sample_rows(newest(view.state.samples), width) if (view := self.view) and view.state.samples else []

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
