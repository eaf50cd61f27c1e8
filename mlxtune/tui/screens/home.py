"""Home: what to do next, how far the journey has come, the best adapter, and the runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content

from mlxtune.tui.draw import bar, clickable, col, fold, key, line, lines
from mlxtune.tui.guide import Advice, Stage, journey, next_step
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.verdict import Metric, Verdict
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Verb
from mlxtune.tui.widgets.pane import ListPane, Pane
from mlxtune.tui.widgets.run_list import run_row
from mlxtune.tui.widgets.section import Section


class Next(Pane):
    """The one thing to do now. Enter does it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.do", "do what the sentence says", id="home.do"),
        Binding("down,j", "app.focus_next", "to the runs", id="home.down"),
    ]


class Runs(ListPane):
    """The runs, newest first. Up from the first one leads back to Next."""

    def action_move(self, by: int) -> None:
        if by < 0 and self.cursor == 0:
            self.screen.focus_previous()
        else:
            super().action_move(by)


class Home(Room):
    """Enter does what the focus stands on: Next, or a run."""

    ROOM = "Home"
    ABOUT = "what is here, and what to do next"
    VERBS = frozenset({"new"})
    BINDINGS: ClassVar[list[BindingType]] = [Binding("n", "new", "new run", id="home.new")]

    def __init__(self) -> None:
        super().__init__()
        self._run = ""  # the run under the cursor

    def body(self) -> ComposeResult:
        yield Section("Next", Next(id="next-picture", about="The one thing to do now, and why."), lit=True, id="next")
        with Container(id="columns"):
            with Vertical(classes="left"):
                yield Section("Journey", Draw(id="journey-picture"), id="journey")
            with Vertical(classes="right"):
                yield Section("Last evaluated", Draw(id="best-picture"), id="best")
                runs = Runs(id="runs-picture", about="Every run of this workspace, newest first. Enter shows it in the Train room.")
                yield Section("Runs", runs, id="runs", classes="fill")

    @property
    def _runs(self) -> tuple[RunView, ...]:
        return self.desk.snapshot.runs if self.desk.snapshot else ()

    def draw(self, snapshot: Snapshot) -> None:
        advice, stages, tall = next_step(snapshot, self.desk.modes), journey(snapshot), self.tall
        self.query_one(Next).show(lambda width, _height: next_picture(advice, width, tall))
        modes = self.desk.modes
        self.query_one("#journey-picture", Draw).show(lambda width, _height: journey_picture(stages, width, tall, modes))
        verdict, runs = snapshot.best or snapshot.verdict, snapshot.runs
        best = self.query_one("#best", Section)
        best.set_class(verdict is None or not verdict.metrics, "-away")
        if verdict:
            best.head.set(title=_title(snapshot))
            self.query_one("#best-picture", Draw).show(lambda width, _height: best_picture(verdict, snapshot.verdict, width))
        self.query_one("#runs").display = bool(runs)
        self.query_one(".right").display = bool(runs) or verdict is not None
        at = next((index for index, view in enumerate(runs) if view.id == self._run), 0)
        self.query_one(Runs).set(len(runs), lambda index, width: run_row(runs[index], snapshot.now, width), cursor=at)
        self.query_one("#runs", Section).head.set(note=f"{len(runs)}" if len(runs) > 1 else "")

    def verbs(self) -> Sequence[Verb]:
        snapshot = self.desk.snapshot
        if snapshot is None:
            return [Verb("q", "quit", "app.quit", "leave; what runs goes on")]
        advice, verbs = next_step(snapshot, self.desk.modes), []
        new = advice.action == "screen.new"  # then enter and n are one and the same
        if isinstance(self.focused, Runs):
            verbs.append(Verb("enter", "open", "do", "look at the run under the cursor"))
        elif advice.action and not new:
            verbs.append(Verb("enter", advice.word, "do", advice.does))
        if self.desk.can_start:
            verbs.append(Verb("n", advice.word if new else "new", "new", "start a new run"))
        return [*verbs, Verb("q", "quit", "app.quit", "leave; what runs goes on")]

    def remember(self) -> Mapping[str, Any]:
        return {"run": self._run}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._run = str(left["run"])

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        if event.index < len(self._runs):
            self._run = self._runs[event.index].id

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        if event.index < len(self._runs):
            self.desk.open_run(self._runs[event.index].id)

    async def action_do(self) -> None:
        snapshot = self.desk.snapshot
        if snapshot is None:
            return
        if isinstance(self.focused, Runs):
            self.focused.action_choose()
        elif (action := next_step(snapshot, self.desk.modes).action) and (action != "screen.new" or self.desk.can_start):
            await self.run_action(action)

    def action_samples(self) -> None:
        self.desk.make_samples()

    def action_new(self) -> None:
        self.desk.new_run()


def next_picture(advice: Advice, width: int, tall: bool) -> Content:
    """The sentence, why, and the key."""
    mark = line((f"{advice.mark} ", f"bold {advice.token}")) if advice.mark else Content("")
    said = fold(advice.sentence, width - mark.cell_length, style=f"bold {advice.token}")
    rows = [line("  ", mark, said[2:]), fold(advice.why, width)]
    if advice.key:
        rows += [Content("")] if tall else []
        ways = [key(advice.key, advice.does, advice.action), *(key(way.key, way.does, way.action) for way in advice.also)]
        beside = line("  ", *(part for way in ways for part in (way, "      "))).rstrip()
        rows += [beside] if beside.cell_length <= width else [line("  ", way) for way in ways]
    return lines(*rows)


def journey_picture(stages: Sequence[Stage], width: int, tall: bool, rooms: Collection[str] = ()) -> Content:
    """One row a stage, joined by a line where there is room. A click goes to the stage's room, if there is one."""
    rows: list[Content] = []
    for index, stage in enumerate(stages):
        name = col(stage.name, 11, "$muted" if stage.waiting else "bold")
        result = len(stage.result)
        what = col(stage.what, width - 18 - result, "$faint" if stage.waiting else "$muted")
        mark = (stage.mark, f"bold {stage.token}")
        row = line("  ", mark, "  ", name, what, "  ", col(stage.result, result, right=True)).truncate(max(width, 0))
        rows.append(clickable(row, f"app.room('{stage.room}')") if stage.room in rooms else row)
        if tall and index < len(stages) - 1:
            rows.append(line("  ", ("│", "$line")))
    return lines(*rows)


def _title(snapshot: Snapshot) -> str:
    """What the adapter on show is."""
    best = snapshot.best
    return "Last evaluated" if best is None else "Best so far" if best.reservation else "Best adapter"


def best_picture(verdict: Verdict, newest: Verdict | None, width: int) -> Content:
    """An adapter that was measured, against its base, and what came of the newest if that is another; nothing while only bases were."""
    if not verdict.metrics:
        return Content("")  # a hidden picture is asked for its height too
    rows = [line("  ", col(verdict.name, width - 2, "bold")), Content("")]
    for metric in _telling(verdict.metrics):
        rows += [*_metric(metric, width), Content("")]
    than = "on" if verdict.word == "cannot tell" else "than base on"
    end = line(
        (f"  {verdict.mark} {verdict.word.capitalize()}", f"bold {verdict.token}"), (f" {than} {verdict.rows:,} rows", "$muted")
    )
    if verdict.reservation:
        told = f"{verdict.word.capitalize()}, but {verdict.reservation}. It is not to be promoted."
        end = line(("  ! ", "bold $warning"), fold(told, width - 2, "    ", "$warning")[4:])
    if newest and newest.word and newest.run != verdict.run:
        what = f"{newest.name} is {newest.word}" if newest.word != "cannot tell" else f"of {newest.name} one cannot tell"
        what += ", but not to be promoted" if newest.reservation else ""
        end = lines(end, col(line((f"  {newest.mark} ", f"bold {newest.token}"), (f"the last, {what}", "$muted")), width))
    return lines(*rows, end)


def _telling(metrics: Sequence[Metric]) -> list[Metric]:
    """The whole contract, and the part of it that moved most."""
    *parts, whole = metrics
    return [*sorted(parts, key=lambda metric: -abs(metric.tuned - metric.base))[:1], whole]


def _metric(metric: Metric, width: int) -> list[Content]:
    room = width - 18
    return [
        line("  ", col(metric.name, width - 2, "$muted")),
        line("  base   ", bar(metric.base, room, "$muted"), col(f"{metric.base * 100:.1f} %", 9, "$muted", right=True)),
        line("  tuned  ", bar(metric.tuned, room), col(f"{metric.tuned * 100:.1f} %", 9, "bold", right=True)),
    ]
