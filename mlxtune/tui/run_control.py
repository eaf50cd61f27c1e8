"""Start, stop, and resume runs, after the questions that each of these asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.present.check import check_warning
from mlxtune.present.search import price_text
from mlxtune.present.words import WORDS
from mlxtune.present.workflow import recipe_summary
from mlxtune.recipe import Recipe, load
from mlxtune.runs import registry
from mlxtune.runs.locks import require_free_accelerator
from mlxtune.runs.registry import Run
from mlxtune.tui import keys
from mlxtune.tui.notices import Notice
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import ChoiceOption
from mlxtune.workspace import control
from mlxtune.workspace.control import stop_effect
from mlxtune.workspace.index import RecipeView, RunView

if TYPE_CHECKING:
    from mlxtune.training.search.budget import SearchPrice
    from mlxtune.tui.app import MlxtuneApp
    from mlxtune.tui.rooms.chat.service import ChatService

T = TypeVar("T")


class RunControl:
    """Controls the workers of the workspace. Whatever takes time happens in the app's jobs."""

    def __init__(self, app: MlxtuneApp) -> None:
        self._app = app
        self.stopping: frozenset[str] = frozenset()  # the IDs of runs that were asked to stop
        self.chat: ChatService | None = None  # the Chat room's, which a worker that starts unloads if it is idle

    @property
    def can_start(self) -> bool:
        """Whether a new run can start: there is a recipe, and no other run holds the accelerator."""
        return bool(self._app.snapshot.recipes) and self.accelerator_free

    @property
    def accelerator_free(self) -> bool:
        """Whether nothing is running or being started."""
        return self._app.has_read and self._app.snapshot.live is None and not self._app.jobs.busy

    @property
    def in_use(self) -> Notice | None:
        """What is using the accelerator, and how to stop it."""
        live = self._app.snapshot.live
        if live is None:
            return self._app.jobs.busy_notice if self._app.jobs.busy else None
        room = ROOMS.get({"train": "train", "search": "train", "eval": "evaluate", "export": "adapters"}.get(live.run.kind, ""))
        stop = f"or run: mlxtune runs stop {live.title}"
        if room:
            action = next(one for one in room.load().ACTIONS if one.name == "stop")
            key = keys.display_key(self._app.key_changes.get(action.binding_id(room.mode), action.key).split(",")[0])
            to_room = self._app.show_action(f"room('{room.mode}')").key
            is_here = room.mode == self._app.current_mode
            stop = f"or stop it ({key})." if is_here else f"or stop it in {room.name} ({to_room}, then {key})."
        text = f"The {registry.RUN_KINDS[live.run.kind].noun} of {live.name} is using this machine."
        return Notice("warning", text, f"Wait for it to finish, {stop}")

    def open_run(self, id: str) -> None:
        newest = self._app.snapshot.runs[0].id if self._app.snapshot.runs else None
        self._app.selected = None if id == newest else id
        self._app.action_room("train")

    def new_run(self) -> None:
        views = self.startable
        about = f"{recipe_summary(views[0].recipe)}, {Path(views[0].source).name}" if len(views) == 1 and views[0].recipe else ""
        self.with_recipe(lambda path: self.start_run(path, about))

    def start_run(self, path: Path, about: str = "", doubtful: bool = False) -> None:
        """Start a run of the recipe in ``path``, and show both. Ask first if there is anything to say ``about`` it, or if its rows
        should be checked or fixed before.
        """
        view = next((view for view in self._app.snapshot.recipes if view.path == path), None)
        if view is None or view.recipe is None or (not (note := check_warning(view.last_check)) and not about):
            self._start_run(path)
            return
        options = [
            ChoiceOption(None, "Not now", "start nothing"),
            *([ChoiceOption("data", "Look at the rows", "in Data, which checks them")] if note else []),
            ChoiceOption("train", "Train anyway" if note or doubtful else "Train", "it may fail" if doubtful else "start the run"),
        ]

        def chosen(choice: str) -> None:
            if choice == "data":
                self._app.selection.recipe_path = path
                self._app.action_room("data")
            else:
                self._start_run(path)

        self._app.choose(f"Train {one_line(view.recipe.name)}?", options, chosen, f"{note} {about}".strip())

    def _start_run(self, path: Path) -> None:
        if self._run_recipe_job("train", path, partial(control.train, self._app.workspace), "Starting {}."):
            self._app.selected, self._app.selection.recipe_path = None, path
            self._app.action_room("train")

    @property
    def startable(self) -> list[RecipeView]:
        """The recipes that can start: the workspace's current one first, those that cannot be read last."""
        current = self._app.selection.recipe
        return sorted(self._app.snapshot.startable, key=lambda view: (view.recipe is None, view is not current))

    def new_search(self) -> None:
        """Ask for a recipe if there are several, and whether to search its hyperparameters, with what that takes."""
        from mlxtune.tui.rooms.plan.service import PlanService  # its imports would slow down the app's start

        def ask(path: Path) -> None:
            def confirm(price: SearchPrice | None) -> None:
                options = [ChoiceOption(None, "Not now", "start nothing"), ChoiceOption("search", "Search", "start the trials")]
                work = price_text(price)[0] if price else plural(recipe.search.trials, "trial")
                self._app.choose(f"Search hyperparameters of {one_line(recipe.name)}?", options, start, f"{work}.")

            def start(_: str) -> None:
                search = partial(control.search, self._app.workspace)
                self._run_recipe_job("search", path, search, "Starting a hyperparameter search for {}.")

            with self._app.notices.showing_errors():
                recipe = load(path)
                job = partial(PlanService(self._app.workspace).price_search, recipe)
                self._app.jobs.run(job, confirm, self._show_error, busy="Planning the search.", holds_keys=True)

        self.with_recipe(ask)

    def with_recipe(self, then: Callable[[Path], object]) -> None:
        """Call ``then`` with the path of the only recipe that can start, or ask which recipe if there are several."""
        if len(views := self.startable) == 1:
            then(views[0].path)
        else:
            self._app.selection.ask_for_recipe(views, then)

    def start_worker(self, job: Callable[[], T], on_result: Callable[[T], object] | None = None, *, busy: str) -> bool:
        """Run a job that starts a worker, like :meth:`run_job`. If Chat has a model loaded but is not answering, unload it first."""

        def unload_and_start() -> T:
            if self.chat:
                self.chat.unload_if_idle()
            return job()

        return self._app.jobs.run(unload_and_start, on_result, self._show_error, busy=busy)

    def _show_error(self, error: MlxtuneError) -> None:
        """Show why a run does not start and, if its rows are the reason, the key to them."""
        key = self._app.show_action("room('data')").key
        rows = f" {key} opens Data." if isinstance(error, DataError) else ""
        self._app.notices.show(Notice("error", one_line(error.message), f"{one_line(error.hint)}{rows}"))

    def require_accelerator(self) -> None:
        """Raise ``MachineError`` if another process holds the accelerator, and :meth:`start_worker` would not free it."""
        if not (self.chat and self.chat.is_idle()):
            require_free_accelerator(timeout=0.5)

    def _run_recipe_job(self, verb: str, path: Path, job: Callable[[Recipe], object], busy: str) -> bool:
        """Run ``job``, which is that of a command, with the recipe in ``path``, whose name completes ``busy``, or show why it cannot be read."""
        with self._app.notices.showing_errors():
            recipe = load(path)
            self._app.commands.add(verb, path)
            return self.start_worker(lambda: job(recipe), busy=busy.format(recipe.name))
        return False

    def resume(self, view: RunView, busy: str, on_result: Callable[[Run], object] | None = None) -> None:
        self._app.commands.add("runs", "resume", view.id)
        self.start_worker(lambda: control.resume(view.run), on_result, busy=busy)

    def confirm_stop(self, view: RunView) -> None:
        """Ask for confirmation, then tell the worker of ``view`` to save and exit. If it was told to stop before, offer to kill it."""
        kill, saved = view.id in self.stopping, WORDS.stop_effects[stop_effect(view.run.kind, view.state)]
        text, label, about = "", "Stop", saved
        if kill:
            lost = "all its work" if view.checkpoint is None else f"what follows checkpoint {view.checkpoint:,}"
            text, label, about = f"It was asked to stop but has not responded. This loses {lost}.", "End it now", "end the process"

        def stopped(_: object) -> None:
            self.stopping |= {view.id}
            outcome = "is exiting now, without saving" if kill else f"was asked to stop: {saved}"
            self._app.notices.show(Notice("stopped", f"{view.name} {outcome}."))

        def stop(_: str) -> None:
            if kill or view.id not in self.stopping:  # else another dialog has sent the signal, and a second one would kill it
                self._app.commands.add("runs", "stop", view.id)
                self._app.jobs.run(lambda: registry.stop(view.run), stopped, busy="")

        options = [ChoiceOption(None, "Let it finish", "nothing changes"), ChoiceOption("stop", label, about)]
        self._app.choose(f"Stop the {registry.RUN_KINDS[view.run.kind].noun} of {view.name}?", options, stop, text)
