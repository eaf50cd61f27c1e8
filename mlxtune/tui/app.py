"""The app: the rooms over one workspace. It reads what workers write, and starts, stops and resumes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.recipe import load
from mlxtune.runs import launch, registry
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.help import help_rows
from mlxtune.tui.screens.home import Home
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.screens.train import Train
from mlxtune.tui.snapshot import RecipeView, RunView, Snapshot, Watcher, recipe_summary
from mlxtune.tui.status import checkpoint, kept
from mlxtune.tui.theme import THEMES
from mlxtune.tui.widgets.frame import LETTERS, Answer, sorry

ROOMS: dict[str, type[Room]] = {room.ROOM.lower(): room for room in (Home, Train)}  # in the order of the journey
LOOK_EVERY = 0.25  # seconds between two looks at the workspace
TICK_EVERY = 1.0  # seconds after which clocks move on, even if nothing else has


@dataclass
class Observed(Message):
    """The workspace has changed: the one message by which a room learns anything."""

    snapshot: Snapshot


@dataclass
class Answered(Message):
    """Work that was asked for has ended; ``answer`` is shown above the footer."""

    answer: Answer | None


class MlxtuneApp(App[None]):
    """``workspace`` is the folder the app shows. Without ``watch`` it shows only what is posted to it."""

    TITLE = "mlxtune"
    CSS_PATH = "mlxtune.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {**ROOMS}
    DEFAULT_MODE = "home"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(LETTERS[room.ROOM], f"room('{mode}')", room.ROOM) for mode, room in ROOMS.items()),
        Binding("f1", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "settle", "Dismiss the answer"),
    ]

    def __init__(self, workspace: Path, *, clock: Callable[[], float] = time.time, watch: bool = True) -> None:
        super().__init__()
        self.workspace = workspace
        self.snapshot: Snapshot | None = None
        self.selected: str | None = None  # the run the Train room shows; None: the newest
        self._recipe: Path | None = None  # the recipe that was chosen
        self.stopping: frozenset[str] = frozenset()
        self.answer: Answer | None = None
        self.busy = False
        self._watcher = Watcher(workspace, clock) if watch else None
        self._leaving = threading.Event()
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = THEMES[0].name

    def on_mount(self) -> None:
        if self._watcher:
            self._watch(self._watcher)

    def on_unmount(self) -> None:
        self._leaving.set()

    @work(thread=True, group="watch")
    def _watch(self, watcher: Watcher) -> None:
        """Look at the workspace, and post a snapshot when it differs or a second has passed."""
        shown: Snapshot | None = None
        while not self._leaving.is_set():
            snapshot = watcher.read()
            if shown is None or snapshot.now - shown.now >= TICK_EVERY or replace(snapshot, now=shown.now) != shown:
                shown = snapshot
                self.post_message(Observed(snapshot))
            self._leaving.wait(LOOK_EVERY)

    def on_observed(self, message: Observed) -> None:
        self.snapshot = snapshot = message.snapshot
        self.stopping &= {view.id for view in snapshot.runs if view.alive}
        if self.selected and snapshot.find(self.selected) is None:
            gone, self.selected = one_line(self.selected), None
            self.answer = Answer(
                "!", "$warning", f"The folder of {gone} is gone.", "This is the newest run." if snapshot.runs else ""
            )
        self._show()

    def _show(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Room | Page):
                screen.show()
                screen.refresh_bindings()

    # What rooms ask for

    @property
    def rooms(self) -> tuple[str, ...]:
        """The names of the rooms, in the order of the journey."""
        return tuple(room.ROOM for room in ROOMS.values())

    @property
    def recipe(self) -> RecipeView | None:
        """The recipe that Data, Review, Plan and Evaluate are about: the chosen one, else the newest run's, else the first."""
        views = self.snapshot.recipes if self.snapshot else ()
        newest = self.snapshot.runs[0].name if self.snapshot and self.snapshot.runs else None
        chosen = next((view for view in views if view.path == self._recipe), None)
        return (
            chosen or next((view for view in views if view.recipe and view.recipe.name == newest), None) or next(iter(views), None)
        )

    def choose_recipe(self) -> None:
        """Ask which recipe the rooms are about."""
        views = self.snapshot.recipes if self.snapshot else ()
        choices = [
            Choice(str(at), view.title, recipe_summary(view.recipe) if view.recipe else f"✗ {view.error}")
            for at, view in enumerate(views)
        ]

        def chosen(at: str | None) -> None:
            if at:
                self._recipe = views[int(at)].path
                self._show()

        self.push_screen(Choose("Which recipe?", "", choices), chosen)

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
            self._start(recipes[0].path)
            return
        choices = [
            Choice(str(at), view.title, recipe_summary(view.recipe) if view.recipe else f"✗ {view.error}")
            for at, view in enumerate(recipes)
        ]
        self.push_screen(Choose("Which recipe?", "", choices), lambda at: self._start(recipes[int(at)].path) if at else None)

    def _start(self, path: Path) -> None:
        try:
            recipe = load(path)
        except MlxtuneError as error:
            self.reply(sorry(error))
            return

        def job() -> Answer | None:
            launch.start(self.workspace, "train", recipe)
            return None

        self.selected = None
        self.do(f"Starting {recipe.name}.", job)
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
        self.push_screen(Choose(title, text, choices), lambda chosen: self._stop(view) if chosen else None)

    def _stop(self, view: RunView) -> None:
        def job() -> Answer | None:
            registry.stop(view.run)
            return Answer("■", "$muted", f"{view.name} was asked to stop. It finishes its step, saves, and ends.")

        self.stopping |= {view.id}
        self.do("", job)

    def make_samples(self) -> None:
        """Make the sample workspace in this one."""

        def job() -> Answer | None:
            made = samples.create(self.workspace)
            return Answer(
                "✓", "$success", f"Made {one_line(made.relative_to(self.workspace).as_posix())}, and its rows in data/samples."
            )

        self.do("", job)

    # Work that takes longer than a key press

    def do(self, doing: str, job: Callable[[], Answer | None]) -> None:
        """Run ``job``, a call of the core, in a thread, one at a time; its answer, or what went wrong, is shown above the footer."""
        if self.busy:
            return
        self.busy = True
        self.reply(Answer("●", "$primary", doing) if doing else None)
        self.run_worker(partial(self._attempt, job), thread=True, group="verbs")

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
        """Show ``answer`` above the footer."""
        self.answer = answer
        self._show()

    # Keys that work everywhere

    def action_room(self, name: str) -> None:
        """Go to a room."""
        if isinstance(self.screen, Room) and self.current_mode != name:
            if self.answer and not self.busy:
                self.answer = None
            self.switch_mode(name)

    def action_settle(self) -> None:
        if self.answer and not self.busy:
            self.reply(None)

    def action_help(self) -> None:
        if isinstance(self.screen, Room):
            self.push_screen(Page("Help", help_rows(self.screen.ROOM, self.rooms, self.screen.verbs())))

    def action_theme(self, name: str) -> None:
        """Change the colours."""
        self.theme = name

    def action_picture(self) -> None:
        """Save the screen as an SVG in the workspace."""
        try:
            path = self.save_screenshot(path=str(self.workspace))
        except OSError as error:
            self.reply(Answer("✗", "$error", f"The picture was not saved: {one_line(str(error))}."))
        else:
            self.reply(Answer("✓", "$success", f"Saved {one_line(Path(path).name)}."))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers: the verbs of the room that are possible now, the rooms, the colours."""
        if isinstance(screen, Room):
            for verb in screen.verbs():
                if verb.action != "app.quit":
                    yield SystemCommand(
                        f"{verb.word.capitalize()} ({verb.key})", verb.help, partial(screen.run_action, verb.action)
                    )
            for mode, room in ROOMS.items():
                if room is not type(screen):
                    name, letter = room.ROOM, LETTERS[room.ROOM]
                    yield SystemCommand(f"Go to {name} ({letter})", f"the {name} room", partial(self.action_room, mode))
        for theme, about in (("ink", "dark"), ("paper", "light"), ("ansi", "the terminal's own colours")):
            if theme != self.theme:
                yield SystemCommand(f"Theme: {theme}", about, partial(self.action_theme, theme))
        yield SystemCommand("Screenshot", "save what is on screen as an SVG in the workspace", self.action_picture)
        yield SystemCommand("Help (F1)", "the keys of this room, and what the signs mean", self.action_help)
        yield SystemCommand("Quit (q)", "leave; what runs goes on", self.action_quit)


def run(workspace: Path) -> None:
    """Open the app on a workspace; returns when the user leaves. Raises ``SystemExit`` with code 4 after a fault of ours."""
    app = MlxtuneApp(workspace)
    app.run()
    if app.return_code:
        raise SystemExit(4)
