"""What the rooms stand on: the newest snapshot, what is selected, and the way to ask the core for something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App
from textual.message import Message
from textual.timer import Timer

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.recipe import load
from mlxtune.runs import launch, registry
from mlxtune.tui.names import seen_from
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.snapshot import RecipeView, RunView, Snapshot, recipe_summary
from mlxtune.tui.status import checkpoint, kept
from mlxtune.tui.widgets.frame import Answer, sorry

TOAST = 3.0  # seconds


@dataclass
class Answered(Message):
    """Work that was asked for has ended; ``answer`` is shown above the footer."""

    answer: Answer | None


class Desk(App[None]):
    """The part of the app that rooms ask."""

    def __init__(self, workspace: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.snapshot: Snapshot | None = None
        self.selected: str | None = None  # the run on show; None: the newest
        self.adapter: str | None = None  # the folder, seen from the workspace, of the adapter that Chat talks to
        self.stopping: frozenset[str] = frozenset()
        self.answer: Answer | None = None
        self.toast: Answer | None = None
        self.busy = False
        self._toasting: Timer | None = None
        self._recipe: Path | None = None  # the recipe that was chosen
        self.wanted_adapter: str | None = None  # the key of an adapter that Chat should load next
        self.wanted_row: str | None = None  # the hash of a row, or its first twelve digits, that Review should go to next

    def redraw(self) -> None:
        """Let the room on screen draw what is known now."""

    def action_room(self, name: str) -> None:
        """Go to a room."""

    # Which recipe

    @property
    def recipe(self) -> RecipeView | None:
        """The recipe that Data, Review, Plan and Evaluate are about: the chosen one, else the newest run's, else the first to start."""
        if self.snapshot is None:
            return None
        views, newest = self.snapshot.recipes, next(iter(self.snapshot.runs), None)
        chosen = next((view for view in views if view.path == self._recipe), None)
        of_newest = next((view for view in views if newest and view.recipe and view.recipe.name == newest.name), None)
        return chosen or of_newest or next(iter(self.snapshot.startable), None)

    def turn_to(self, name: str) -> None:
        """Be about the recipe called ``name``, if there is one."""
        views = self.snapshot.recipes if self.snapshot else ()
        found = next((view for view in views if view.recipe and view.recipe.name == name), None)
        self._recipe = found.path if found else self._recipe

    def choose_recipe(self, then: Callable[[], object] = lambda: None) -> None:
        """Ask which recipe the rooms are about; ``then`` is done where one was chosen."""
        views = self.snapshot.recipes if self.snapshot else ()

        def chosen(at: str | None) -> None:
            if at:
                self._recipe = views[int(at)].path
                then()
                self.redraw()

        self.push_screen(Choose("Which recipe?", "", _choices(views)), chosen)

    # Runs

    @property
    def can_start(self) -> bool:
        """Whether a new run could start: there is a recipe, and nothing else has the accelerator."""
        snapshot = self.snapshot
        return snapshot is not None and bool(snapshot.recipes) and snapshot.live is None and not self.busy

    def open_run(self, id: str) -> None:
        """Show a run in the Train room."""
        newest = self.snapshot.runs[0].id if self.snapshot and self.snapshot.runs else None
        self.selected = None if id == newest else id
        self.action_room("train")

    def new_run(self) -> None:
        """Start a run of the workspace's recipe; with more than one, ask which."""
        recipes = sorted(self.snapshot.startable if self.snapshot else (), key=lambda view: view.recipe is None)
        if len(recipes) == 1:
            self.start_run(recipes[0].path)
        else:
            self.push_screen(
                Choose("Which recipe?", "", _choices(recipes)), lambda at: self.start_run(recipes[int(at)].path) if at else None
            )

    def start_run(self, path: Path) -> None:
        """Start a run of the recipe in ``path``, and go to see it."""
        try:
            recipe = load(path)
        except MlxtuneError as error:
            self.reply(sorry(error))
            return

        def job() -> Answer | None:
            launch.start(self.workspace, "train", recipe)
            return None

        if self.do(f"Starting {recipe.name}.", job):
            self.selected = None
            self.action_room("train")

    def resume_run(self, view: RunView) -> None:
        """Start a run's worker again, from its newest checkpoint."""

        def job() -> Answer | None:
            launch.resume(view.run)
            return None

        saved = checkpoint(view)
        self.do(f"Resuming {view.name}{f' from {saved:,}' if saved is not None else ''}.", job)

    def ask_to_stop(self, view: RunView) -> None:
        """Ask first; then ask the run's worker to save and end, or, if it was asked before and is quiet, end it."""
        again = view.id in self.stopping
        saved = checkpoint(view)
        if again:
            lost = (
                f"What came after checkpoint {saved:,} would be lost."
                if saved is not None
                else "It has no checkpoint: all of it would be lost."
            )
            text, word = f"It was asked to stop and has not answered. {lost}", "End it now"
        else:
            text, word = kept(view), "Stop"
        choices = [
            Choice("", "Keep training", "nothing changes"),
            Choice("stop", word, "end the process" if again else "save, then end"),
        ]
        title = f"Stop {view.name} at step {view.state.step:,}?"
        self.push_screen(Choose(title, text, choices), lambda chosen: self._stop(view, again) if chosen else None)

    def _stop(self, view: RunView, again: bool) -> None:
        """Send the signal: the first one asks to save and end, another one ends the process at once."""
        if view.id in self.stopping and not again:
            return  # it was asked while the question stood
        told = "ends now, without saving" if again else "was asked to stop. It finishes its step, saves, and ends"

        def job() -> Answer | None:
            registry.stop(view.run)
            self.call_from_thread(self._asked, view.id)
            return Answer("■", "$muted", f"{view.name} {told}.")

        self.do("", job)

    def _asked(self, id: str) -> None:
        self.stopping |= {id}

    def make_samples(self) -> None:
        """Make the sample workspace in this one."""

        def job() -> Answer | None:
            made = samples.create(self.workspace)
            return Answer(
                "✓", "$success", f"Made {one_line(made.relative_to(self.workspace).as_posix())}, and its rows in data/samples."
            )

        self.do("", job)

    # Work that takes longer than a key press, and what is said of it

    def do(self, doing: str, job: Callable[[], Answer | None]) -> bool:
        """Run ``job``, a call of the core, in a thread, one at a time; its answer, or what went wrong, is said.

        While another one is at work it is not taken: that is said, and ``False`` returned.
        """
        if self.busy:
            self.reply(
                Answer("!", "$warning", "Nothing was done: what was asked for before is still at work.", "Ask again in a moment.")
            )
            return False
        self.busy = True
        self.reply(Answer("●", "$primary", doing) if doing else None)
        self.run_worker(partial(self._attempt, job), thread=True, group="verbs")
        return True

    def _attempt(self, job: Callable[[], Answer | None]) -> None:
        try:
            answer = job()
        except MlxtuneError as error:
            answer = sorry(error)
        except OSError as error:
            answer = Answer("✗", "$error", one_line(str(error)))
        self.post_message(Answered(answer))

    def on_answered(self, message: Answered) -> None:
        self.busy = False
        self.reply(message.answer)

    def reply(self, answer: Answer | None) -> None:
        """Say ``answer``: above the footer until something else is said; as a toast if it is done and there is nothing to undo."""
        if answer is not None:
            text, mend = (seen_from(self.workspace, told) for told in (answer.text, answer.mend))
            answer = replace(answer, text=text, mend=mend)
        if answer is not None and answer.done:
            self._toast(answer)
            answer = None
        self.answer = answer
        self.redraw()

    def _toast(self, answer: Answer | None) -> None:
        """Show what is done for three seconds, in the place of an older toast."""
        if self._toasting:
            self._toasting.stop()
        self.toast = answer
        self._toasting = self.set_timer(TOAST, self._eaten) if answer else None

    def _eaten(self) -> None:
        self._toast(None)
        self.redraw()


def _choices(views: tuple[RecipeView, ...] | list[RecipeView]) -> list[Choice]:
    return [
        Choice(str(at), view.title, recipe_summary(view.recipe) if view.recipe else f"✗ {view.error}")
        for at, view in enumerate(views)
    ]
