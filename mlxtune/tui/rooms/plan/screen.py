"""Plan: a recipe as a form, with its memory, time and cost on this machine after every edit."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content

from mlxtune.core.child_process import StoppableCall
from mlxtune.core.errors import MlxtuneError, RecipeError
from mlxtune.core.text import duration, one_line, plural, size
from mlxtune.models import catalog
from mlxtune.models.resolve import check_name  # its imports would slow down the app's start
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.plan import Plan, PlannedRecipe
from mlxtune.present.labels import base_summary
from mlxtune.present.plan import time_fact, verdict_sentence
from mlxtune.present.words import WORDS
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import Edit, edit_recipe, edit_text, undo_edit
from mlxtune.recipe.keys import RecipeKey, format_value, keys, value_at
from mlxtune.recipe.load import parse, parse_override
from mlxtune.tui.actions import Action
from mlxtune.tui.draw import Keys
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import relative_paths
from mlxtune.tui.render.text import RECIPE_KEY, cut_rows, invitation, key, lines
from mlxtune.tui.room import OTHER_RECIPE, Room
from mlxtune.tui.rooms.plan import render
from mlxtune.tui.rooms.plan.service import MissingBaseError, PlanService
from mlxtune.tui.widgets import Invitation, ListPanel, PageScreen, Panel, Section
from mlxtune.workspace.index import RecipeView, Snapshot

_NOT_READY = Notice("warning", "The plan is not ready.", "Try again in a moment.")
_TRAIN_LATER = Notice("working", "The plan is not ready.", "You are asked whether to train as soon as it is.")
_PROGRESS_DELAY = 0.15  # seconds before progress is shown


@dataclass
class RecipeForm:
    """The recipe in the form: its file, its content when it was opened and now, the edits in between, and its plan."""

    path: Path
    opened: Recipe
    recipe: Recipe
    evidence: tuple[int, str]  # of the plan: the entries of the review, and the newest finished run, whose speed it may use
    edits: list[Edit] = field(default_factory=list)
    written: bytes | None = None  # the file's content after the last edit or undo
    planned: PlannedRecipe | None = None
    last_memory: int | None = None  # bytes that the plan before the last edit needed
    error: MlxtuneError | None = None

    @property
    def plan(self) -> Plan | None:
        return self.planned.plan if self.planned else None

    @property
    def is_own_version(self) -> bool:
        """Whether the file still contains what this form wrote."""
        try:
            return self.written is not None and self.path.read_bytes() == self.written
        except OSError:
            return False


@dataclass
class RunningProbe:
    """What a probe is doing, and its process once it has started."""

    stage: str = "starting"
    start: float = field(default_factory=time.monotonic)
    process: StoppableCall[StepCost] | None = None
    stopped: bool = False

    @property
    def progress(self) -> str:
        """What it is doing, and how long it has run."""
        return f"{self.stage}, {duration(time.monotonic() - self.start)} so far"

    def started(self, process: StoppableCall[StepCost]) -> None:
        self.process = process
        if self.stopped:
            process.stop()

    def stop(self) -> None:
        self.stopped = True
        if self.process:
            self.process.stop()


class PlanRoom(Room):
    """A form with the recipe's keys. The plan is updated after every edit."""

    CSS_PATH = "style.tcss"
    SIDE = "#plan-side"
    SAVED: ClassVar = {"_key_path": str}
    ABOUT = "a recipe and its cost"
    ACTIONS = (
        Action("edit", "enter", "edit", when="form", bound=False,
               command="plan {recipe} --set KEY=VALUE"),
        Action("fit", "f", "fit", "make it fit", when="next_change", why="Nothing to change."),
        Action("train", "n", "train", "start a run",
               when=lambda room: room.form and room.app.runs.can_start and not room.why_wait,
               why=lambda room: _TRAIN_LATER if room.why_wait == _NOT_READY else room.why_wait,
               needs_accelerator=True, command="train {recipe}"),
        Action("fetch_base", "b", "download", "download its base", when="can_fetch", why="The base is on this machine.",
               needs_accelerator=True, command="models pull BASE"),
        Action("probe", ".", "probe", "measure two steps", when="can_probe", why=lambda room: room.why_wait,
               needs_accelerator=True, command="plan {recipe} --probe"),
        Action("stop", "s", "stop", when="probe", why="No probe running."),
        Action("undo", "u", "undo", when="form.edits", why="Nothing to undo."),
        Action("memory", "g", "costs", "all figures", when="form.plan", command="plan {recipe}"),
        Action("default", "backspace,delete", "default", "restore the default", when="has_other_value",
               why="It is the default."),
        OTHER_RECIPE,
        Action("step(1)", "right,plus,l", help="next value", id="next-value"),
        Action("step(-1)", "left,minus,h", help="previous value", id="previous-value"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.form: RecipeForm | None = None
        self._shown_recipe: tuple[Path, Recipe | None, str, tuple[int, str]] | None = None  # in the newest snapshot
        self._service: PlanService | None = None
        self._progress: tuple[str, float] | None = None  # description and fraction of a slow computation
        self.probe: RunningProbe | None = None
        self._generation = 0  # counts computations; progress of an older one is dropped
        self._key_path = ""  # of the key under the cursor

    # Drawing

    def compose_body(self) -> ComposeResult:
        yield Invitation("Plan")
        yield Panel(id="plan-verdict")
        with Horizontal(id="plan-columns"):
            yield Section("Recipe", ListPanel(id="plan-keys"), Panel(id="plan-detail"), id="plan-form", classes="fill")
            yield Panel(id="plan-side")

    @property
    def _list(self) -> ListPanel:
        return self.query_one("#plan-keys", ListPanel)

    @property
    def _keys(self) -> tuple[RecipeKey, ...]:
        return keys(self.form.recipe) if self.form else ()

    @property
    def _key(self) -> RecipeKey | None:
        return self._list.pick(self._keys)

    def draw(self, snapshot: Snapshot) -> None:
        view = self.app.selection.recipe
        self.set_class(view is not None and view.recipe is None, "-unread")
        self.invite(None if view else lambda width, _height: invitation(width, "No recipes yet.", RECIPE_KEY))
        if view is None:
            self.form = self._shown_recipe = None
            return
        finished = next((run.id for run in snapshot.runs if run.status == "finished"), "")
        evidence = (view.review_entries, finished)
        shown = (view.path, view.recipe, view.error, evidence)
        if shown != self._shown_recipe:
            self._shown_recipe = shown
            self._open(view, evidence)
        if view.recipe is None:
            message = relative_paths(self.app.workspace, view.error)
            error = RecipeError(message, hint=f"{view.hint} Fix the file and save it.".strip())
            self.query_one("#plan-verdict", Panel).update(lambda width, _height: render.error(error, None, width))
        elif self.form:
            self._draw_form(self.form)
            if self.focused is None:  # the form was hidden while the file was invalid
                self.set_focus(self._list)

    def _open(self, view: RecipeView, evidence: tuple[int, str]) -> None:
        form = self.form
        if view.recipe is None:
            self.form = None
        elif form is None or form.path != view.path:
            self.form = RecipeForm(view.path, view.recipe, view.recipe, evidence)
            self._replan()
        elif form.recipe != view.recipe and not form.is_own_version:  # another program wrote it
            self.app.notices.drop_undo()  # the edit is no longer in the file
            memory = form.plan.memory if form.plan else None
            self.form = RecipeForm(view.path, view.recipe, view.recipe, evidence, last_memory=memory)
            self._replan()
        elif form.evidence != evidence:  # decisions about rows, or a run's speed
            form.evidence = evidence
            self._replan()

    def _draw_form(self, form: RecipeForm) -> None:
        note, progress, items = self._note(form), self._progress, self._keys
        self.query_one("#plan-verdict", Panel).update(lambda width, _height: self._verdict(form, note, progress, width))
        cursor = next((index for index, item in enumerate(items) if item.path == self._key_path), None)

        def select(index: int) -> None:
            self._key_path = items[index].path
            self.redraw()

        self._list.set(len(items), partial(self._row, form, items), header=render.form_header, cursor=cursor, on_move=select)
        edits = f"{plural(len(form.edits), 'edit')} saved" if form.edits else ""
        file = ", ".join(filter(None, [edits, f"more keys in recipes/{one_line(form.path.name)}"]))
        self.section("#plan-form").head.set(title=one_line(form.recipe.name), note=file)
        if item := self._key:
            model = catalog.find(form.recipe.model.base) if item.path == "model.base" else None
            about = base_summary(model) if model else ""
            self.query_one("#plan-detail", Panel).update(lambda width, _height: render.key_detail(item, form.recipe, about, width))
        side = self.query_one("#plan-side", Panel)
        side.display = form.planned is not None and self.wide
        if planned := form.planned:
            more = ("g", "all figures", "screen.memory")
            side.update(lambda width, height: cut_rows(render.side(self._sections(planned, width), width, height), height, more))

    def _sections(self, planned: PlannedRecipe, width: int, *, full: bool = False) -> list[tuple[str, list[Content]]]:
        power, note = self.app.snapshot.power, self.app.selection.check_note
        return render.side_sections(planned, power, note, self._keys_now, full, width)

    @property
    def _keys_now(self) -> Keys:
        keys = {"plan.fit": key("f", "fit", "screen.fit")}
        return keys | ({"plan.probe": key(".", "probe", "screen.probe", "$muted")} if self.can_probe else {})

    def _row(self, form: RecipeForm, items: Sequence[RecipeKey], index: int, width: int) -> Content:
        item = items[index]
        first = index == self._list.first or items[index - 1].section != item.section
        edited = item.value_in(form.recipe) != item.value_in(form.opened)
        return render.form_row(item, first, form.recipe, edited, width)

    def _verdict(self, form: RecipeForm, note: str, progress: tuple[str, float] | None, width: int) -> Content:
        if form.error and not progress:
            model = catalog.find(form.recipe.model.base)
            label = f"download it, {size(model.hub_nbytes)}" if model else "download it"
            fetch = key("b", label, "screen.fetch_base") if self.can_fetch else None
            return render.error(form.error, fetch, width)
        if form.plan:
            return render.verdict(form.plan, form.last_memory, note, width)
        return render.progress(*progress, width) if progress else lines("", "")

    def _note(self, form: RecipeForm) -> str:
        old = "The figures are from before your edit." if form.planned and form.planned.recipe != form.recipe else ""
        if self.probe:
            return f"probe: {self.probe.progress} … {old}".rstrip()
        if self._progress or old:
            return f"{self._progress[0] if self._progress else 'planning'} … {old}".rstrip()
        if form.planned and not form.planned.local:
            return "base not downloaded: estimated from the catalog"
        return WORDS.basis[form.plan.basis] if form.plan else ""

    def copyable(self) -> tuple[str, str]:
        item = self._key
        return (f"{item.path} = {format_value(item.value_in(self.form.recipe))}", item.path) if item and self.form else ("", "")

    # Planning

    def _replan(self, *, fetch: bool = False) -> None:
        """Plan the recipe again in a job. The last plan stays visible."""
        form = self.form
        if form is None:
            return
        self._service = self._service or PlanService(self.app.workspace)
        self._generation += 1
        generation, recipe = self._generation, form.recipe

        def progress(label: str, share: float) -> None:
            self.app.call_later(self._set_progress, generation, label, share)

        def planned(result: PlannedRecipe | None) -> None:
            if result:
                self.app.planned = form.planned = result
                form.error = None
                self._finish()

        def show_delay() -> None:
            if self._progress is None:
                self._set_progress(generation, "planning", 0.0)

        self.set_timer(_PROGRESS_DELAY, show_delay)
        plan = partial(self._service.plan, recipe, progress, lambda: generation != self._generation, fetch=fetch)
        self.run_job(plan, planned, partial(self._show_error, form))

    def _show_error(self, form: RecipeForm, error: MlxtuneError) -> None:
        form.planned, form.error = None, error
        self._finish()

    def _set_progress(self, generation: int, label: str, share: float) -> None:
        if generation == self._generation:
            self._progress = (label, share)
            self.redraw()

    def _finish(self) -> None:
        self._generation += 1
        self._progress = None
        if (asked := self.app.notices.current) in (_NOT_READY, _TRAIN_LATER):
            self.app.notices.dismiss()
        if asked == _TRAIN_LATER and self.is_current and self.form and not self.form.error:
            self.action_train()

    @property
    def can_probe(self) -> bool:
        return bool(self.form and self.form.planned and self.form.planned.local and self._idle)

    @property
    def can_fetch(self) -> bool:
        form = self.form
        is_away = bool(form and form.planned and not form.planned.local)
        return self._idle and (is_away or isinstance(form and form.error, MissingBaseError))

    @property
    def _idle(self) -> bool:
        return self.app.runs.accelerator_free and self._progress is None and self.probe is None

    # Actions

    @property
    def why_wait(self) -> Notice | str:
        """Why a run or a probe cannot start yet, or an empty string."""
        if probe := self.probe:
            return Notice("warning", f"A probe is using this machine: {probe.stage}.", "Stop it with s, or wait until it ends.")
        return _NOT_READY if self._progress else ""

    @property
    def next_change(self) -> Sequence[str]:
        plan = self.form.plan if self.form else None
        return plan.changes[0].settings if plan and plan.changes else ()

    @property
    def has_other_value(self) -> bool:
        item, form = self._key, self.form
        return bool(form and item and not render.is_default(item, form.recipe) and render.default_value(item))

    def action_edit(self) -> None:
        if (item := self._key) and (form := self.form):

            def check(text: str) -> None:
                changes = {item.path: item.parse(text)}
                self._check(form, changes)
                parse(edit_text(form.path.read_text("utf-8"), changes), folder=form.path.parent, where="")

            value = format_value(item.value_in(form.recipe))
            write = lambda text: self._write({item.path: item.parse(text)})  # noqa: E731
            self.app.ask(item.path, f"{item.about.description}.", write, value, check=check, select=True)

    on_list_panel_chosen = action_edit

    def _check(self, form: RecipeForm, changes: Mapping[str, Any]) -> None:
        """Raise ``MlxtuneError`` if there cannot be such a base."""
        if base := changes.get("model.base"):
            check_name(str(base), relative_to=form.path.parent)

    def action_step(self, by: int) -> None:
        if (item := self._key) and self.form:
            value = item.value_in(self.form.recipe)
            if (following := item.next_value(value, by)) != value:
                self._write({item.path: following})
            else:
                where = "next" if by > 0 else "previous"
                self.app.notices.show(Notice("note", f"{item.name} has no {where} value.", "enter edits it."))

    def action_default(self) -> None:
        if item := self._key:
            self._write({item.path: None})

    def action_fit(self) -> None:
        if settings := self.next_change:
            self._write(dict(map(parse_override, settings)))

    def _write(self, changes: dict[str, Any]) -> None:
        form = self.form
        if form is None:
            return
        with self.app.notices.showing_errors():
            self._check(form, changes)
            edit = edit_recipe(form.path, changes)
            if edit.before == edit.after:
                return
            form.edits.append(edit)
            self._update_form(form, edit.recipe, edit.after)
            values = {path.partition(".")[2]: one_line(format_value(value_at(edit.recipe, path))) for path in changes}
            text = " and ".join(f"{name} is now {value or 'empty'}" for name, value in values.items())
            self.app.notices.show(Notice("done", f"{text.rstrip('.')}.", undo="undo", rooms=("plan",)))

    def action_undo(self) -> None:
        form = self.form
        if form is None or not form.edits:
            return
        edit = form.edits.pop()
        try:
            recipe = undo_edit(edit)
        except MlxtuneError as error:
            form.edits.clear()
            self.app.notices.show_error(error)
            return
        self._update_form(form, recipe, edit.before)
        self.app.notices.show(Notice("done", "Edit undone."))

    def _update_form(self, form: RecipeForm, recipe: Recipe, written: bytes) -> None:
        form.recipe, form.written = recipe, written
        form.last_memory = form.plan.memory if form.plan else form.last_memory
        self._replan()

    def action_train(self) -> None:
        if (form := self.form) is None:
            return
        plan, text = form.plan, "The recipe has no plan yet."
        if form.error:
            text = f"The recipe has no plan: {one_line(form.error.message)}"
        elif plan:
            time = f", {time_fact(plan.cost).value}" if plan.cost.seconds else ""
            text = f"{verdict_sentence(plan)} {plural(plan.steps, 'step')}{time}."
        self.app.runs.start_run(form.path, text, form.error is not None or (plan is not None and plan.outcome == "refuse"))

    def action_probe(self) -> None:
        form = self.form
        if form is None or self._service is None:
            return
        self.app.commands.add("plan", form.path, "--probe")
        probe = self.probe = RunningProbe()
        clock = self.set_interval(1.0, self.redraw)

        def progress(stage: str, share: float) -> None:
            probe.stage = stage
            self.app.call_later(self.redraw)

        def ended() -> None:
            clock.stop()
            self.probe = None

        def probed(completed: bool) -> None:
            ended()
            if not completed:
                self.app.notices.show(Notice("stopped", "The probe was stopped: nothing was stored."))
            self._replan()

        def failed(error: MlxtuneError) -> None:
            ended()
            self._show_error(form, error)

        self.run_job(partial(self._service.probe, form.recipe, progress, probe.started), probed, failed, group="probe")
        self.redraw()

    def action_stop(self) -> None:
        if self.probe:
            self.probe.stop()

    on_unmount = action_stop

    def action_fetch_base(self) -> None:
        if self.form:
            self.form.error = None
            self.app.commands.add("models", "pull", self.form.recipe.model.base)
        self._replan(fetch=True)

    def action_memory(self) -> None:
        def rows(width: int) -> list[Content]:
            planned = self.form.planned if self.form else None
            return render.side(self._sections(planned, width, full=True), width) if planned else []

        self.app.push_screen(PageScreen("Memory, time and cost", rows))
