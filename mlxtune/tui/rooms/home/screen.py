"""Home: the next step, workflow progress, the best adapter, and the runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.advice.next_step import NextStep, next_step, of_recipe
from mlxtune.core.text import age, ago, one_line
from mlxtune.data import samples
from mlxtune.present.blocks import ActionBlock
from mlxtune.present.labels import GLYPHS, capital, word
from mlxtune.present.next_step import step_action, step_mark, step_title, step_why
from mlxtune.present.words import WORDS
from mlxtune.present.workflow import StageState, WorkflowStage, best_document, brief_result, workflow
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui import draw
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import cell, clickable, key, line, lines, marked, paragraph
from mlxtune.tui.room import NEW_RUN, Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import FocusPanel, ListPanel, Panel, Section
from mlxtune.workspace.index import RunView, Snapshot, with_history


class NextPanel(FocusPanel):
    """The next step. Enter performs it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.do", "the next step", id="home.do"),
        Binding("down,j", "app.focus_next", "to the runs", id="home.down"),
    ]


class RunList(ListPanel):
    """The list of runs. Moving up from the first one leads back to the next step."""

    def action_move(self, by: int) -> None:
        if by < 0 and self.cursor == 0:
            self.screen.focus_previous()
        else:
            super().action_move(by)


class HomeRoom(Room):
    """Enter performs the next step or opens the run under the cursor, depending on the focus."""

    CSS_PATH = "style.tcss"
    SIDE = ".right"
    SAVED: ClassVar = {"_run_id": str}
    ABOUT = "what comes next"
    ACTIONS = (
        Action("do", "enter", lambda room: room.step.label.split()[0] if room.step and not room.on_runs else "show", "the next step",
               when=lambda room: room.on_runs or room.step, bound=False, id="do"),
        NEW_RUN,
        Action("open_file", "o", "open", "open a file", id="open",
               command="init --from FILE"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._run_id = ""  # ID of the run under the cursor

    def compose_body(self) -> ComposeResult:
        yield Section("Next", NextPanel(id="next-picture"), lit=True, id="next-step")
        with Horizontal(id="home-columns"):
            with Vertical(classes="left"):
                yield Section("Workflow", Panel(id="workflow-picture"), id="workflow", classes="fill")
                yield Section("Loss", Panel(id="lower-picture"), id="home-lower", classes="fill")
            with Vertical(classes="right"):
                yield Section("Since your last visit", Panel(id="changes-picture"), id="home-changes")
                yield Section("Last evaluated", Panel(id="best-picture"), id="best")
                yield Section("Runs", RunList(id="runs-picture"), id="runs", classes="fill")

    def _own(self, snapshot: Snapshot) -> Snapshot:
        """Return the part of ``snapshot`` about the recipe that the other rooms show, or all of it if the newest run's has no file."""
        view, newest = self.app.selection.recipe, next(iter(snapshot.runs), None)
        if view is None or view.recipe is None:
            return snapshot
        is_own = view.path == self.app.selection.recipe_path or newest is None or newest.name == view.recipe.name
        return of_recipe(snapshot, view) if is_own else snapshot

    def _next_step(self, snapshot: Snapshot) -> NextStep:
        own, file = self._own(snapshot), self.app.sessions.file
        return next_step(replace(snapshot, recipes=own.recipes[:1]) if snapshot.live else own, file.name if file else "")

    def _key(self, step: NextStep) -> Content:
        """Return the key of a step's action. Enter performs the step itself, unless it opens the run under the cursor."""
        action = step_action(step)
        name, does = self._binding(action.id)
        on_enter = "tab, enter" if isinstance(self.focused, RunList) else "enter"
        return key(name or on_enter, action.label, does)

    def _binding(self, id: str) -> tuple[str, str]:
        """Return the key of an action's ID, and the action to run. An action without a key of its own is the step's, on enter."""
        room = ROOMS.get(id.removeprefix("app."))
        if room:
            action = f"app.room('{room.mode}')"
            return self.app.show_action(action.removeprefix("app.")).key, action
        own = next((one for one in self.BINDINGS if isinstance(one, Binding) and one.id == id), None)
        return (own.key, f"screen.{own.action}") if own else ("", f"screen.{id.removeprefix('home.')}")

    def draw(self, snapshot: Snapshot) -> None:
        step, own, tall = self._next_step(snapshot), self._own(snapshot), self.tall
        keys = [self._key(one) for one in (step, *step.also)]
        stages = workflow(own, self.app.planned, self.app.runs.stopping)
        recipe = self.app.selection.recipe if len(snapshot.recipes) > 1 else None
        self.query_one(NextPanel).update(lambda width, _height: draw_next_step(step, own, keys, width, tall))
        self.section("#workflow").show(
            lambda width, height: draw_workflow(stages, width, height, tall), note=recipe.title if recipe else ""
        )
        best, newest, runs = snapshot.best, snapshot.newest_outcome, snapshot.runs
        verdict = best or newest
        self.section("#best").set_class(verdict is None, "-away")
        if verdict:
            title = "Last evaluated" if best is None else "Best so far" if best.caveat else "Best adapter"
            document = best_document(verdict, newest, snapshot.adapter_names)
            self.section("#best").show(lambda width, _height: lines(*draw.rows(document, width)), title=title)
        last_visit = self.app.saved.last_visit or snapshot.now
        changes, limit = snapshot.ended_since(last_visit), 4 if tall else 2
        self.query_one("#home-changes").display = bool(changes)
        self.section("#home-changes").show(
            lambda width, _height: draw_changes(snapshot, changes, limit, width), note=ago(snapshot.now - last_visit)
        )
        self.query_one("#runs").display = bool(runs)
        self.query_one(".right").display = bool(runs or changes) or verdict is not None
        cursor = next((index for index, view in enumerate(runs) if view.id == self._run_id), 0)

        def select(index: int) -> None:
            self._run_id = runs[index].id
            self._draw_lower()

        self.query_one(RunList).set(len(runs), partial(draw_run, runs, snapshot.now), cursor=cursor, on_move=select)
        self._draw_lower()
        self.section("#runs").head.set(note=f"{len(runs)}" if len(runs) > 1 else "")

    def on_descendant_focus(self) -> None:
        if self.is_mounted and self.app.has_read:
            self._draw_lower()

    def _draw_lower(self) -> None:
        """Show the loss of the run under the cursor if the list has the focus, or else of the one that trains, or the arms of the verdict."""
        snapshot, section = self.app.snapshot, self.section("#home-lower")
        verdict = snapshot.best or snapshot.newest_outcome
        shown = snapshot.runs[self.query_one(RunList).cursor] if self.on_runs and snapshot.runs else snapshot.live
        has_curve = self.tall and shown is not None and shown.run.kind == "train" and bool(shown.state.total)
        self.set_class(self.tall and (has_curve or verdict is not None), "-lower")
        if shown and has_curve:
            from mlxtune.tui.render.charts import draw_chart  # the first screen does not need them
            from mlxtune.tui.rooms.train.chart import build_curve

            state = with_history(shown).state
            section.show(lambda width, height: draw_chart(build_curve(state), width, height), title="Loss", note=shown.name)
        elif verdict:
            from mlxtune.tui.rooms.evaluate.render import arm_row, arms_axis  # the report was read, so its imports are loaded

            metrics, arms = [verdict.report.headline_metric], verdict.report.arms

            def draw_arms(width: int, height: int) -> Content:
                rows = [line("  ", arm_row(arm, metrics, width - 2)) for arm in arms[-max(height, 1) :]]
                return lines(*rows, *([arms_axis(metrics, width)] if height > len(rows) else []))

            section.show(draw_arms, title="Arms", note=f"{verdict.rows:,} held-out rows, 95% intervals")

    @property
    def on_runs(self) -> bool:
        return isinstance(self.focused, RunList) and self.focused.count > 0

    @property
    def step(self) -> ActionBlock | None:
        """The action of the next step, unless it has a key of its own here."""
        action = step_action(self._next_step(self.app.snapshot))
        return action if self.app.has_read and action.id not in ("home.new", "home.open") else None

    def copyable(self) -> tuple[str, str]:
        return (self.app.snapshot.runs[self.query_one(RunList).cursor].id, "the run's ID") if self.on_runs else ("", "")

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        self.app.runs.open_run(self.app.snapshot.runs[event.index].id)

    async def action_do(self) -> None:
        if isinstance(self.focused, RunList):
            self.focused.action_choose()
        elif self.app.has_read:
            action = self._binding(step_action(self._next_step(self.app.snapshot)).id)[1]
            if action == "screen.new" and not self.app.runs.can_start:
                self.app.notices.show(self.app.runs.in_use)
            elif action:
                await self.run_action(action)

    def action_evaluate(self) -> None:
        self.app.run_to_evaluate = self._own(self.app.snapshot).runs[0].run
        self.app.action_room("evaluate")

    def action_samples(self) -> None:
        def job() -> Notice:
            recipe = samples.create(self.app.workspace).relative_to(self.app.workspace).as_posix()
            return Notice("done", f"Created {one_line(recipe)} and its rows in data/samples.")

        self.app.commands.add("init")
        self.app.jobs.run(job, busy="")


STATE_STYLES: dict[StageState, tuple[str, str]] = {
    "waiting": ("○", "$faint"), "partly": ("◐", "$primary"), "running": ("●", "$primary"), "done": ("✓", "$success"),
    "undecided": ("·", "$warning"), "warning": ("!", "$warning"), "failed": ("✗", "$error"),
}  # fmt: skip


def draw_next_step(step: NextStep, snapshot: Snapshot, keys: Sequence[Content], width: int, tall: bool) -> Content:
    mark, title = step_mark(step, snapshot), step_title(step)
    rows = marked(GLYPHS[mark], f"${mark}", title, width, "bold") if mark else [paragraph(title, width, style="bold")]
    why = step_why(step, snapshot)
    rows += [paragraph(capital(why), width)] if why else []
    if keys:
        rows += [Content("")] if tall else []
        row = line("  ", *(part for item in keys for part in (item, "      "))).rstrip()
        rows += [row] if row.cell_length <= width else [line("  ", item) for item in keys]
    return lines(*rows)


def draw_workflow(stages: Sequence[WorkflowStage], width: int, height: int, tall: bool) -> Content:
    """Return one row per stage, joined by a line if there is room. A click opens the stage's room."""
    rows: list[Content] = []
    tall = tall and not 0 < height < 2 * len(stages) - 1
    for index, stage in enumerate(stages):
        glyph, token = STATE_STYLES[stage.state]
        waiting = stage.state == "waiting"
        name = cell(stage.name, 11, "$muted" if waiting else "bold")
        detail = cell(stage.detail, width - 18 - len(stage.result), "$faint" if waiting else "$muted")
        row = line("  ", (glyph, f"bold {token}"), "  ", name, detail, "  ", stage.result)
        rows.append(clickable(row, f"app.room('{stage.room}')"))
        if tall and index < len(stages) - 1:
            rows.append(line("  ", ("│", "$line")))
    return lines(*rows)


def draw_run(runs: Sequence[RunView], now: float, index: int, width: int) -> Content:
    view = runs[index]
    sign = WORDS.statuses[view.status]
    name, result = cell(view.name, width - 20), cell(brief_result(view), 11, "$muted", right=True)
    when = cell(age(now - view.updated), 7, "$faint", right=True)
    return line((sign.glyph, f"bold ${sign.style}"), " ", name, result, when)


def draw_changes(snapshot: Snapshot, views: Sequence[RunView], limit: int, width: int) -> Content:
    """Return a row for each of the first ``limit`` runs of any kind that have ended, and the number of the others."""
    rows = []
    for view in views[:limit]:
        sign = WORDS.statuses[view.status]
        noun = "" if view.run.kind == "train" else f"{RUN_KINDS[view.run.kind].noun} of "
        verdict = next((one.outcome for one in snapshot.verdicts if one.run.folder == view.run.folder and one.outcome), "")
        parts = (sign.glyph, f"bold ${sign.style}"), " ", f"{noun}{view.name}", (f", {word(verdict) or sign.text}", "$muted")
        rows.append(line("  ", *parts).truncate(max(width, 0), ellipsis=True))
    if len(views) > limit:
        rows.append(line("    ", (f"and {len(views) - limit:,} more", "$faint")))
    return lines(*rows)
