"""The base classes of the app and its rooms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual._styles_cache import StylesCache
from textual.actions import ActionParseResult
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.reactive import Reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, TextArea

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.data import samples
from mlxtune.present.check import check_warning
from mlxtune.present.labels import signed_points, word
from mlxtune.present.next_step import stop_text
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch, registry
from mlxtune.runs.locks import require_free_accelerator
from mlxtune.tui import keys
from mlxtune.tui.compositor import RoomCompositor
from mlxtune.tui.key_order import OrderedKeys
from mlxtune.tui.paths import relative_paths
from mlxtune.tui.render.text import age
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets.dialog import ChoiceDialog, ChoiceOption
from mlxtune.tui.widgets.frame import FooterAction, Notice, NoticeLine, RoomFooter, RoomHeader, ToastPanel, error_notice
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.workspace import control
from mlxtune.workspace.control import StopEffect, stop_effect
from mlxtune.workspace.index import RecipeView, RunView, Snapshot, recipe_summary

if TYPE_CHECKING:
    from mlxtune.planning.plan import Plan
    from mlxtune.tui.session_manager import SessionManager

TOAST_SECONDS = 3.0
_BUSY = Notice("!", "$warning", "Another task is still running.", "Try again when it has finished.")
QUIT = FooterAction("q", "quit", "app.quit", "quit; runs continue")

T = TypeVar("T")


class BaseApp(OrderedKeys):
    """The part of the app that rooms use: the snapshot, the selected run and recipe, jobs and notices."""

    def __init__(self, workspace: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.snapshot: Snapshot | None = None
        self.selected: str | None = None  # the ID of the displayed run; None means the newest
        self.adapter: str | None = None  # the folder of the adapter used in Chat, relative to the workspace
        self.last_visit: float | None = None  # when the app was last open on this workspace, in seconds since the epoch
        self.planned: tuple[Recipe, Plan] | None = None  # the last recipe that was planned, and its plan
        self.stopping: frozenset[str] = frozenset()  # the IDs of runs that were asked to stop
        self.notice: Notice | None = None
        self.toast: Notice | None = None
        self.busy = False
        self._busy_notice = _BUSY  # what the app is busy with, for keys that have to wait
        self.key_changes: keys.Keymap = {}  # keys by binding ID, for bindings that the user's settings change
        self.has_idle_chat: Callable[[], bool] = lambda: False  # whether unload_idle_chat has something to unload
        self.unload_idle_chat: Callable[[], object] = lambda: None  # frees the machine; called in a job's thread
        self.adapter_to_load: str | None = None  # the key of an adapter that Chat should load next
        self.row_to_open: str | None = None  # a row's hash, or its first twelve digits, that Review should open next
        self.run_to_evaluate: str | None = None  # the ID of a run that Evaluate should ask about next
        self.saved_source: Any = None  # what the session manager saved in the last session, not validated
        self._recipe: Path | None = None  # the recipe that the user chose
        self._toast_timer: Timer | None = None
        self._job_counts: Counter[str] = Counter()  # jobs started, by group

    def redraw(self) -> None:
        """Redraw the current room."""

    def action_room(self, name: str) -> None:
        """Open a room."""

    def saved_state(self, mode: str) -> Mapping[str, Any]:
        """Return the state that the room ``mode`` saved in the last session. It is not validated and may be empty."""
        return {}

    def pop_screen(self) -> AwaitComplete:
        """Remove the top screen, and clear two caches of Textual that otherwise keep growing.

        Its cache of colors keeps widgets and their rendered lines alive as keys. Its cache of escape sequences has one entry
        for each place where text of a style was drawn, up to 16,384.
        """
        StylesCache.get_inner_outer.cache_clear()
        Strip.render_ansi.cache_clear()
        return super().pop_screen()

    def shown_key(self, action: str, default: str) -> str:
        """Return the key to show for an app action: the one in the user's settings, or the default."""
        return keys.shown_keys(self.key_changes, {"app": type(self)}).get(action, default) if self.key_changes else default

    def doubt_about(self, view: RecipeView | None) -> str:
        """Return why training a recipe should wait for a check of its rows, and the key to them, or ``""``."""
        key = self.shown_key("app.room('data')", "D")
        doubt = check_warning(view.last_check) if view else ""
        return f"{doubt} {key} opens Data." if doubt else ""

    @cached_property
    def sessions(self) -> SessionManager:
        """The manager of the source session that Data, Groups and Review share."""
        from mlxtune.tui.session_manager import SessionManager

        sessions = SessionManager(self)
        with suppress(KeyError, TypeError, ValueError, AttributeError, OSError):  # the state may be anything
            sessions.restore_state(self.saved_source)
        return sessions

    # Jobs

    def run_job(
        self,
        job: Callable[[], T],
        on_result: Callable[[T], object] | None = None,
        on_error: Callable[[MlxtuneError], object] | None = None,
        *,
        group: str = "job",
        exclusive: bool = True,
        busy: str | None = None,
        holds_keys: bool = False,
    ) -> bool:
        """Run ``job`` in a thread, then pass its result to ``on_result`` in the app's thread.

        Without ``on_result``, a :class:`Notice` returned by the job is shown. ``MlxtuneError`` and ``OSError`` are passed to
        ``on_error``; without it, they are shown as a notice. The result of a job is dropped if a newer job in its ``group`` was
        started, unless ``exclusive`` is false. With ``busy``, a sentence to show (may be empty), the app is busy until the job
        ends and rejects other such jobs. If it also ``holds_keys``, keys that are typed meanwhile act on its result. Return
        whether the job was started.
        """
        if busy is not None:
            if self.refuse_if_busy():
                return False
            self.busy, group = True, "busy"
            self._busy_notice = replace(_BUSY, glyph="●", token="$primary", text=busy) if busy else _BUSY
            self.show_notice(Notice("●", "$primary", busy) if busy else None)
            if holds_keys:
                self.hold_keys()
        self._job_counts[group] += 1
        number = self._job_counts[group]

        def finish(callback: Callable[[Any], object], value: object) -> None:
            if exclusive and self._job_counts[group] != number:
                return
            if busy is not None:
                self.busy, self.notice = False, None
                self.release_keys()
            callback(value)
            if busy is not None:
                self.redraw()

        def work() -> None:
            try:
                result = job()
            except MlxtuneError as error:
                self.call_later(finish, on_error or self.show_error, error)
            except OSError as error:
                self.call_later(finish, on_error or self.show_error, MachineError(one_line(str(error))))
            else:
                self.call_later(finish, on_result or self._show_result, result)

        self.run_worker(work, thread=True, group=group)
        return True

    def refuse_if_busy(self) -> bool:
        """Show a notice if the app is busy. Return whether it is."""
        if self.busy:
            self.show_notice(self._busy_notice)
        return self.busy

    def _show_result(self, result: object) -> None:
        if isinstance(result, Notice):
            self.show_notice(result)

    def show_error(self, error: MlxtuneError) -> None:
        """Show an error as a notice."""
        self.show_notice(error_notice(error))

    def show_notice(self, notice: Notice | None) -> None:
        """Show ``notice`` above the footer until the next one, or as a toast if nothing is left to do. ``None`` clears it."""
        if notice is not None:
            text, hint = (relative_paths(self.workspace, part) for part in (notice.text, notice.hint))
            notice = replace(notice, text=text, hint=hint)
        if notice is not None and notice.is_toast:
            self._set_toast(notice)
            notice = None
        self.notice = notice
        self.redraw()

    def action_dismiss_notice(self) -> None:
        if self.notice and not self.busy:
            self.show_notice(None)

    def _set_toast(self, toast: Notice | None) -> None:
        if self._toast_timer:
            self._toast_timer.stop()
        self.toast = toast
        self._toast_timer = self.set_timer(TOAST_SECONDS, self._hide_toast) if toast else None

    def _hide_toast(self) -> None:
        self._set_toast(None)
        self.redraw()

    # The recipe

    @property
    def recipe(self) -> RecipeView | None:
        """The recipe that Data, Review, Plan and Evaluate show: the chosen one, the newest run's, or the first that can start."""
        if self.snapshot is None:
            return None
        views, newest = self.snapshot.recipes, next(iter(self.snapshot.runs), None)
        chosen = next((view for view in views if view.path == self._recipe), None)
        of_newest = next((view for view in views if newest and view.recipe and view.recipe.name == newest.name), None)
        return chosen or of_newest or next(iter(self.snapshot.startable), None)

    @property
    def has_chosen_recipe(self) -> bool:
        """Whether the user chose :attr:`recipe`."""
        return self.recipe is not None and self.recipe.path == self._recipe

    def select_recipe(self, name: str) -> None:
        """Select the recipe named ``name``, if there is one."""
        views = self.snapshot.recipes if self.snapshot else ()
        self._recipe = next((view.path for view in views if view.recipe and view.recipe.name == name), self._recipe)

    def show_recipe(self, path: Path) -> None:
        """Show the recipe at ``path``, which was just written, as soon as it is in a snapshot."""
        self._recipe = path
        self.sessions.expect_recipe(path)
        self.redraw()

    def choose_recipe(self, then: Callable[[], object] = lambda: None) -> None:
        """Ask which recipe to show, and call ``then`` when one has been chosen."""

        def choose(path: Path) -> None:
            self._recipe = path
            then()
            self.redraw()

        self._ask_for_recipe(self.snapshot.recipes if self.snapshot else (), choose)

    def _ask_for_recipe(self, views: Sequence[RecipeView], then: Callable[[Path], None]) -> None:
        options = [
            ChoiceOption(str(index), view.title, recipe_summary(view.recipe) if view.recipe else f"✗ {view.error}")
            for index, view in enumerate(views)
        ]
        self.push_screen(ChoiceDialog("Which recipe?", "", options), lambda index: then(views[int(index)].path) if index else None)

    # Evaluations

    @property
    def finished_evaluations(self) -> list[RunView]:
        """The finished evaluations, newest first."""
        return [view for view in self.snapshot.evals if view.status == "finished"] if self.snapshot else []

    def preferred_evaluation(self, selected: str | None, views: Sequence[RunView]) -> RunView | None:
        """Return the evaluation with the ID ``selected``, or else the current recipe's newest one, or else the newest one."""
        recipe = self.recipe.recipe if self.recipe else None
        chosen = next((view for view in views if view.id == selected), None)
        of_recipe = next((view for view in views if recipe and view.name == recipe.name), None)
        return chosen or of_recipe or next(iter(views), None)

    def choose_evaluation(self, title: str, views: Sequence[RunView], then: Callable[[RunView], None]) -> None:
        """Ask the user to choose one of ``views`` and call ``then`` with it."""
        now = self.snapshot.now if self.snapshot else 0.0
        options = [
            ChoiceOption(
                str(index),
                f"{self.evaluated_name(view)}, {age(now - view.updated)}",
                _brief_verdict(dict(view.state.summary)),
            )
            for index, view in enumerate(views)
        ]
        self.push_screen(ChoiceDialog(title, "", options), lambda index: then(views[int(index)]) if index else None)

    def evaluated_name(self, view: RunView) -> str:
        """Return the name of the adapter that the evaluation ``view`` is about, or of its recipe if that is unknown or only the base."""
        run_id = launch.evaluated_run(view.run.folder)
        return self.adapter_name(run_id) if run_id else view.name

    def adapter_name(self, run_id: str) -> str:
        """Return the name of a run's adapter, which is the run's ID unless it was renamed."""
        return one_line((self.snapshot.adapter_names if self.snapshot else {}).get(run_id, run_id))

    # Runs

    @property
    def can_start(self) -> bool:
        """Whether a new run can start: there is a recipe, and no other run holds the accelerator."""
        return bool(self.snapshot and self.snapshot.recipes) and self.accelerator_free

    @property
    def accelerator_free(self) -> bool:
        """Whether nothing is running or being started."""
        return self.snapshot is not None and self.snapshot.live is None and not self.busy

    @property
    def in_use(self) -> Notice | None:
        """What is using the accelerator, and how to stop it."""
        live = self.snapshot.live if self.snapshot else None
        if live is None:
            return self._busy_notice if self.busy else None
        room = ROOMS.get({"train": "train", "search": "train", "eval": "evaluate"}.get(live.run.kind, ""))
        stop = f"or run: mlxtune runs stop {live.title}"
        if room:
            key = self.shown_key(f"app.room('{room.mode}')", room.key)
            stop = f"or stop it in {room.name} ({key}{', then h' if live.run.kind == 'search' else ''})."
        text = f"The {registry.RUN_KINDS[live.run.kind].noun} of {live.name} is using this machine."
        return Notice("!", "$warning", text, f"Wait for it to finish, {stop}")

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action, or show why it is impossible now if the room or the page knows that."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        refusal = default_namespace.refusal(str(action)) if isinstance(default_namespace, Room | PageScreen) else None
        if refusal is not None:
            self.show_notice(refusal)
        return refusal is not None

    def open_run(self, id: str) -> None:
        """Show a run in the Train room."""
        newest = self.snapshot.runs[0].id if self.snapshot and self.snapshot.runs else None
        self.selected = None if id == newest else id
        self.action_room("train")

    def new_run(self) -> None:
        """Start a run of the workspace's recipe after asking, or ask which one if there are several."""
        views = sorted(self.snapshot.startable if self.snapshot else (), key=lambda view: view.recipe is None)
        recipe = views[0].recipe if len(views) == 1 else None
        if recipe is None or check_warning(views[0].last_check):  # start_run asks about these rows
            self.with_recipe(views, self.start_run)
            return
        options = [ChoiceOption("", "Not now", "start nothing"), ChoiceOption("train", "Train", "start the run")]
        text = f"{recipe_summary(recipe)}, on {views[0].source}. Plan estimates its time and memory."
        dialog = ChoiceDialog(f"Train {one_line(recipe.name)}?", text, options)
        self.push_screen(dialog, lambda choice: self.start_run(views[0].path) if choice else None)

    def start_run(self, path: Path, about: str = "") -> None:
        """Start a run of the recipe in ``path``, and show both. Ask first if its rows should be checked or fixed before; ``about`` is
        what else the question says about the run.
        """
        view = next((view for view in (self.snapshot.recipes if self.snapshot else ()) if view.path == path), None)
        if view is None or not (doubt := check_warning(view.last_check)):
            self._start_run(path)
            return
        options = [
            ChoiceOption("", "Cancel", "nothing is trained"),
            ChoiceOption("data", "Look at them in Data", "which checks them"),
            ChoiceOption("train", "Train anyway", "on these rows, too"),
        ]

        def chosen(choice: str | None) -> None:
            if choice == "data":
                self._recipe = path
                self.action_room("data")
            elif choice:
                self._start_run(path)

        self.push_screen(ChoiceDialog("Train on these rows?", f"{doubt} {about}".rstrip(), options), chosen)

    def _start_run(self, path: Path) -> None:
        def start_recipe(recipe: Recipe) -> None:
            control.train(self.workspace, recipe)

        if self._run_recipe_job(path, start_recipe, "Starting {}."):
            self.selected, self._recipe = None, path
            self.action_room("train")

    def new_search(self) -> None:
        """Start a search of the workspace's recipe, or ask which recipe if there are several."""
        views = [view for view in self.snapshot.startable if view.recipe] if self.snapshot else []
        self.with_recipe(views, self.start_search)

    def start_search(self, path: Path) -> None:
        """Start a search of the recipe in ``path``."""

        def start_recipe(recipe: Recipe) -> Notice:
            control.search(self.workspace, recipe)
            return Notice(
                "✓",
                "$success",
                f"The hyperparameter search for {one_line(recipe.name)} has started.",
                "To see it, press h in Train.",
            )

        self._run_recipe_job(path, start_recipe, "Starting a hyperparameter search for {}.")

    def with_recipe(self, views: Sequence[RecipeView], then: Callable[[Path], None]) -> None:
        """Call ``then`` with the path of the only recipe, or ask which recipe if there are several."""
        if len(views) == 1:
            then(views[0].path)
        else:
            self._ask_for_recipe(views, then)

    def start_worker(self, job: Callable[[], T], on_result: Callable[[T], object] | None = None, *, busy: str) -> bool:
        """Run a job that starts a worker, like :meth:`run_job`. If Chat has a model loaded but is not answering, unload it first."""

        def unload_and_start() -> T:
            self.unload_idle_chat()
            return job()

        return self.run_job(unload_and_start, on_result, busy=busy)

    def require_accelerator(self) -> None:
        """Raise ``MachineError`` if another process holds the accelerator, and :meth:`start_worker` would not free it."""
        if not self.has_idle_chat():
            require_free_accelerator(timeout=0.5)

    def _run_recipe_job(self, path: Path, job: Callable[[Recipe], Notice | None], busy: str) -> bool:
        """Run ``job`` with the recipe in ``path``, whose name completes ``busy``, or show why the recipe cannot be read."""
        try:
            recipe = load(path)
        except MlxtuneError as error:
            self.show_error(error)
            return False
        return self.start_worker(lambda: job(recipe), busy=busy.format(recipe.name))

    def resume_run(self, view: RunView) -> None:
        """Resume a run from its newest checkpoint."""
        step = view.checkpoint
        where = f" from {step:,}" if step is not None else ""

        self.start_worker(lambda: control.resume(view.run), busy=f"Resuming {view.name}{where}.")

    def confirm_stop(self, view: RunView) -> None:
        """Ask for confirmation, then tell the run's worker to save and exit. If it was told to stop before, offer to kill it."""
        kill, effect = view.id in self.stopping, stop_effect(view.run.kind, view.state)
        step = view.checkpoint
        if kill:
            lost = "It has no checkpoint: all steps would be lost."
            if view.run.kind == "search":
                lost = "Steps of the current trial after its last checkpoint would be lost."
            elif step is not None:
                lost = f"Steps after checkpoint {step:,} would be lost."
            text, label = f"It was asked to stop but has not responded. {lost}", "End it now"
        else:
            text, label = f"{stop_text(effect).capitalize()}.", "Stop"
        saves = effect != StopEffect.NOTHING
        options = [
            ChoiceOption("", "Keep searching" if view.run.kind == "search" else "Keep training", "nothing changes"),
            ChoiceOption("stop", label, "end the process" if kill else "save, then exit" if saves else "exit without a checkpoint"),
        ]
        title = (
            f"Stop the search for {view.name}?" if view.run.kind == "search" else f"Stop {view.name} at step {view.state.step:,}?"
        )
        self.push_screen(ChoiceDialog(title, text, options), lambda choice: self._stop(view, kill) if choice else None)

    def confirm_end(self, view: RunView, work: str, effect: str) -> None:
        """Ask for confirmation, then tell the worker of ``view`` to exit. ``work`` names what it does, and ``effect`` what remains of it."""

        def job() -> Notice:
            control.stop(view.run)
            return Notice("■", "$muted", f"Stopping the {work} of {view.name}.")

        def chosen(choice: str | None) -> None:
            if choice:
                self.run_job(job, busy="")

        options = [ChoiceOption("", "Let it finish", "nothing changes"), ChoiceOption("stop", "Stop", effect)]
        self.push_screen(ChoiceDialog(f"Stop the {work} of {view.name}?", "", options), chosen)

    def _stop(self, view: RunView, kill: bool) -> None:
        """Send the signal. The worker saves and exits on the first one, and exits immediately on a second one."""
        if view.id in self.stopping and not kill:
            return  # another dialog has sent it
        outcome = "was asked to stop"
        if kill:
            outcome = "is exiting now, without saving"
        elif stop_effect(view.run.kind, view.state) != StopEffect.NOTHING:
            outcome += ". It will finish its step, save, and exit"

        def stopped(_: object) -> None:
            self.stopping |= {view.id}
            self.show_notice(Notice("■", "$muted", f"{view.name} {outcome}."))

        self.run_job(lambda: control.stop(view.run), stopped, busy="")

    def create_samples(self) -> None:
        """Create the sample recipe and its data in the workspace."""

        def job() -> Notice:
            recipe = samples.create(self.workspace).relative_to(self.workspace).as_posix()
            return Notice("✓", "$success", f"Created {one_line(recipe)} and its rows in data/samples.")

        self.run_job(job, busy="")


class Room(Screen[None]):
    """A screen of the app. :meth:`draw` shows the newest snapshot. Rooms read and write files only in jobs."""

    AUTO_FOCUS = "FocusPanel"  # not a text field, which may be hidden
    ABOUT: ClassVar[str] = ""  # the room's purpose, in a few words
    CONDITIONAL_ACTIONS: ClassVar[frozenset[str]] = frozenset()  # actions possible only while ``footer_actions`` lists them

    NEED_ACCELERATOR: ClassVar[frozenset[str]] = frozenset()  # conditional actions that are impossible while it is in use

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)  # a focused widget repaints itself, not the whole screen

    app: BaseApp

    def __init__(self) -> None:
        super().__init__()
        self._compositor = RoomCompositor()

    @property
    def mode(self) -> str:
        """The room's key in the table of rooms, and the name of its folder."""
        return type(self).__name__.removesuffix("Room").lower()

    @property
    def wide(self) -> bool:
        return self.app.size.width >= 100

    @property
    def tall(self) -> bool:
        return self.app.size.height >= 30

    def compose(self) -> ComposeResult:
        with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # the file may contain anything
            self.restore_state(self.app.saved_state(self.mode))
        yield RoomHeader(id="top")
        with Vertical(id="room"):
            yield from self.compose_body()
        yield NoticeLine(id="answer")
        yield RoomFooter(id="foot")
        yield ToastPanel(id="toast")

    def compose_body(self) -> ComposeResult:
        """Yield the room's sections."""
        yield from ()

    def footer_actions(self) -> Sequence[FooterAction]:
        """Return the actions that are possible now, most frequently used first. Quitting is always possible."""
        return ()

    def field_actions(self) -> Sequence[FooterAction]:
        """Return the actions to show while a text field has the focus. Letters are text there."""
        return self.footer_actions()

    def refusal(self, action: str) -> Notice | None:
        """Return why a conditional action is impossible now, which its key then shows.

        ``None`` if its key has another action, here or in the app, that may be possible.
        """
        if action in self.NEED_ACCELERATOR and (in_use := self.app.in_use):
            return in_use
        of_app = self.app._bindings.key_to_bindings
        for key, bindings in self._bindings.key_to_bindings.items():
            if key in of_app or action not in (binding.action for binding in bindings):
                continue
            if not any(self.check_action(binding.action, ()) for binding in bindings):
                return Notice("·", "$muted", f"Not possible now: {', '.join(binding.description for binding in bindings)}.")
        return None

    def draw(self, snapshot: Snapshot) -> None:
        """Show the snapshot in the sections."""

    def command_fields(self) -> Mapping[str, str]:
        """Return the fields of a user's command that this room sets, such as ``{"row": "4f0a…"}``."""
        return {}

    def copyable(self) -> tuple[str, str]:
        """Return the text to copy and its description, as in ``("{…}", "the row")``. Both are empty if there is nothing to copy."""
        return "", ""

    def save_state(self) -> Mapping[str, Any]:
        """Return the state to restore after a restart, such as a cursor or a filter, as JSON. Called every second."""
        return {}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`save_state` returned. Called before widgets exist; errors in ``state`` are ignored."""

    def run_job(
        self,
        job: Callable[[], T],
        on_result: Callable[[T], object] | None = None,
        on_error: Callable[[MlxtuneError], object] | None = None,
        *,
        group: str = "job",
    ) -> None:
        """Run ``job`` in a thread, like :meth:`BaseApp.run_job`, in this room's own group. A removed room drops its results."""
        self.app.run_job(
            job,
            (lambda result: self.is_attached and on_result(result)) if on_result else None,
            (lambda error: self.is_attached and on_error(error)) if on_error else None,
            group=f"{self.mode}.{group}",
        )

    @cached_property
    def user_keys(self) -> dict[str, str]:
        """The keys to show, by action, for bindings that the user's settings change."""
        changes = self.app.key_changes
        return keys.shown_keys(changes, {"screen": type(self), "app": type(self.app)}) if changes else {}

    def with_user_keys(self, actions: Sequence[FooterAction]) -> list[FooterAction]:
        """Return the actions with the keys from the user's settings."""
        return [replace(action, key=self.user_keys.get(action.click, action.key)) for action in actions]

    def redraw(self) -> None:
        """Draw the newest snapshot and the frame."""
        if not (self.is_mounted and self.is_attached and self.app.is_running):  # else its widgets may be gone already
            return
        app = self.app
        if app.snapshot is not None:
            self.draw(app.snapshot)
        self.query_one(RoomHeader).set(app.snapshot, self.mode, app.stopping)
        self.query_one(NoticeLine).set(app.notice)
        self._draw_footer()
        self.query_one(ToastPanel).set(app.toast)
        self.refresh_bindings()

    def _draw_footer(self) -> None:
        in_field = isinstance(self.focused, Input | TextArea)  # in which q is a letter, too
        actions = self.field_actions() if in_field else [*self.footer_actions(), QUIT]
        self.query_one(RoomFooter).set(self.with_user_keys(actions))

    def _reset_focus(self, widget: Widget, avoiding: list[Widget] | None = None) -> None:
        """Move the focus away from a widget that is hidden or about to be removed.

        Textual calls this some time after it hid the widget. If the widget is on screen again by then, it keeps the focus.
        """
        if avoiding or widget not in self.focus_chain:
            super()._reset_focus(widget, avoiding)

    def on_mount(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def on_descendant_focus(self) -> None:
        if self.is_mounted:
            self._draw_footer()  # some actions depend on the focus

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)  # panels need their new sizes

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether the key of an action currently has an effect."""
        return action not in self.CONDITIONAL_ACTIONS or action in {item.action for item in self.footer_actions()}


def _brief_verdict(summary: Mapping[str, object]) -> str:
    """Return the number of rows of an evaluation, and its verdict as far as it fits in one cell of a list."""
    rows, outcome, change = (summary.get(key) for key in ("rows", "outcome", "change"))
    text = word(str(outcome or ""))
    text = f"{text}, {signed_points(change)} points" if isinstance(change, float) else text
    return one_line(f"{plural(rows, 'row')}: {text}" if isinstance(rows, int) and text else text, 46)
