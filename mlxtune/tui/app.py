"""The app: the rooms over one workspace. It reads what workers write, and starts, stops and resumes them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from mlxtune.core import session, settings
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui import keys
from mlxtune.tui.desk import Desk
from mlxtune.tui.palette import Everything, Palette
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.screens.help import help_rows
from mlxtune.tui.screens.jump import Jump
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import Snapshot, Watcher
from mlxtune.tui.theme import ABOUT, THEMES
from mlxtune.tui.widgets.frame import LETTERS, Answer, sorry

LOOK_EVERY = 0.25  # seconds between two looks at the workspace
TICK_EVERY = 1.0  # seconds after which clocks move on, even if nothing else has


@dataclass
class Observed(Message):
    """The workspace has changed: the one message by which a room learns anything."""

    snapshot: Snapshot


def _room(mode: str) -> Room:
    return ROOMS[mode]()


class MlxtuneApp(Desk):
    """``workspace`` is the folder the app shows. Without ``watch`` it shows only what is posted to it, and remembers nothing."""

    TITLE = "mlxtune"
    CSS_PATH = "mlxtune.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = {Everything}  # noqa: RUF012
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {mode: partial(_room, mode) for mode in ROOMS}
    DEFAULT_MODE = "home"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(LETTERS[name], f"room('{name.lower()}')", name, id=f"app.{name.lower()}") for name in ROOMS.names),
        Binding("f1", "help", "Help", id="app.help"),
        Binding("ctrl+p", "command_palette", "More", id="app.more", priority=True),
        Binding("semicolon,ctrl+o", "jump", "Jump", id="app.jump"),
        Binding("u", "undo", "Undo", id="app.undo"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+q", "quit", "Quit from anywhere", id="app.quit-now", priority=True),
        Binding("escape", "settle", "Dismiss the answer", id="app.dismiss"),
    ]

    def __init__(self, workspace: Path, *, clock: Callable[[], float] = time.time, watch: bool = True) -> None:
        self._left = session.recall(workspace) if watch else {}
        self._kept = self._left  # what is on disk
        if (room := str(self._left.get("room"))) in ROOMS:
            self.DEFAULT_MODE = room  # type: ignore[misc]  # Textual asks the instance
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(workspace, ansi_color=True if plain else None)
        self._watcher = Watcher(workspace, clock) if watch else None
        self._leaving, self._keeping = threading.Event(), threading.Lock()
        self._made: set[str] = set()  # the rooms that were gone to
        self._making = False  # whether the room that is gone to has to be made first
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        found = settings.load()
        known = {theme.name for theme in THEMES}
        self.theme = "ansi" if plain else found.theme if found.theme in known else THEMES[0].name
        changed, wrong = keys.keymap(found.keys) if found.keys else ({}, [])
        self.changed = changed  # keys by the ids of their bindings, where the user's settings say so
        self.set_keymap(changed)
        if found.theme not in known | {""}:
            wrong.insert(0, f"There is no theme {one_line(found.theme)}; there are {', '.join(sorted(known))}.")
        self._complain([*found.complaints, *(f"{settings.FILE}: {sentence}" for sentence in wrong)])
        self._recall()

    def _complain(self, sentences: list[str]) -> None:
        if sentences:
            more = f" And {len(sentences) - 1} more in it." if len(sentences) > 1 else ""
            self.answer = Answer("!", "$warning", sentences[0] + more, f"The file: {one_line(str(settings.path()))}")

    # What was on screen when the app was left comes back

    def _recall(self) -> None:
        run, recipe = self._left.get("run"), self._left.get("recipe")
        with suppress(OSError, ValueError):  # a name that no file can have
            if isinstance(run, str) and (self.workspace / "runs" / run / "recipe.toml").is_file():
                self.selected = run
        if isinstance(recipe, str) and not Path(recipe).is_absolute():
            self._recipe = self.workspace / recipe

    def left(self, mode: str) -> dict[str, Any]:
        """What the room ``mode`` said of itself when it was left: anything may be in it, or nothing."""
        rooms = self._left.get("rooms")
        found = rooms.get(mode) if isinstance(rooms, dict) else None
        return found if isinstance(found, dict) else {}

    def _note(self) -> None:
        """Note what is on screen; :meth:`_keep` writes it."""
        stack = self.screen_stack
        if not self._watcher or not stack or not isinstance(stack[0], Room):
            return
        rooms = {mode: self.left(mode) for mode in ROOMS} | {self.current_mode: dict(stack[0].remember())}
        recipe = self._recipe.relative_to(self.workspace).as_posix() if self._recipe else None
        left = {"room": self.current_mode, "run": self.selected, "recipe": recipe, "rooms": rooms}
        if left != self._left:
            self._left = left

    def _keep(self) -> None:
        """Write what was noted, if it is news. It is a convenience: a disk that takes nothing is no harm."""
        with self._keeping:
            left = self._left
            if left is not self._kept:
                self._kept = left
                with suppress(MlxtuneError, OSError):
                    session.remember(self.workspace, left)

    # News

    def on_mount(self) -> None:
        if self._watcher:
            self._watch(self._watcher)
        if not self.is_headless:  # else the terminal would stay as it is, without its cursor and its line
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self.exit)

    def _fatal_error(self) -> None:
        """Textual would print a traceback with all it knows; a user is told what happened, and that nothing was lost."""
        if os.environ.get("MLXTUNE_DEBUG") or self.is_headless:
            super()._fatal_error()
        elif not self._exit_renderables:  # the first fault; others follow from it
            error = sys.exc_info()[1]
            told = one_line(f"A fault of ours: {type(error).__name__}: {error}", 400)
            self.panic(Text(f"✗ {told}\n  What runs goes on. MLXTUNE_DEBUG=1 shows where it was."))

    def on_unmount(self) -> None:
        self._leaving.set()
        self._keep()

    @work(thread=True, group="watch")
    def _watch(self, watcher: Watcher) -> None:
        """Look at the workspace, and post a snapshot when it differs or a second has passed."""
        shown: Snapshot | None = None
        while not self._leaving.is_set():
            try:
                snapshot = watcher.read()
            except OSError:  # a disk that does not answer: what was known stays on screen
                self._leaving.wait(TICK_EVERY)
                continue
            if shown is None or snapshot.now - shown.now >= TICK_EVERY or replace(snapshot, now=shown.now) != shown:
                shown = snapshot
                self.post_message(Observed(snapshot))
            self._keep()
            self._leaving.wait(LOOK_EVERY)

    @work(thread=True, group="warm")
    def _warm(self) -> None:
        """Load the other rooms, now that there is a picture to look at: else the first key to one would wait for it."""
        for mode in ROOMS:
            if not self._leaving.is_set():
                ROOMS[mode]

    def on_observed(self, message: Observed) -> None:
        if self.snapshot is None:
            self._warm()
        self.snapshot = snapshot = message.snapshot
        alive = {view.id for view in snapshot.runs if view.alive}
        if self.stopping - alive and self.answer and self.answer.mark == "■":
            self.answer = None  # it has ended, and the room says so
        self.stopping &= alive
        if self.selected and snapshot.find(self.selected) is None:
            gone, self.selected = one_line(self.selected), None
            self.answer = Answer(
                "!", "$warning", f"The folder of {gone} is gone.", "This is the newest run." if snapshot.runs else ""
            )
        self._note()
        self.redraw()

    def redraw(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Room | Page):
                screen.show()
                screen.refresh_bindings()

    @property
    def rooms(self) -> tuple[str, ...]:
        """The names of the rooms, in the order of the journey."""
        return ROOMS.names

    @property
    def modes(self) -> tuple[str, ...]:
        """What the rooms are called in :meth:`action_room`."""
        return tuple(ROOMS)

    def key(self, action: str, usual: str) -> str:
        """The key to show for an action of the app: its usual one, or what the user's settings make of it."""
        return keys.names(self.changed, {"app": type(self)}).get(action, usual) if self.changed else usual

    # Keys that work everywhere

    def action_room(self, name: str) -> None:
        """Go to a room."""
        if isinstance(self.screen, Room) and self.current_mode != name and name in ROOMS:
            if self.answer and not self.busy:
                self.answer = None
            self._note()
            self._making = name not in self._made
            self._made.add(name)
            self.switch_mode(name)

    def delay_update(self, delay: float = 0.05) -> None:
        """Hold pictures back while a room is made. Textual would do so whenever another room is gone to."""
        if self._making:
            super().delay_update(delay)

    def clear_selection(self) -> None:
        """Where tasks start at once, a room's field asks for this before the room is on the stack: then nothing is selected."""
        if self._screen_stack:
            super().clear_selection()

    def action_settle(self) -> None:
        if self.answer and not self.busy:
            self.reply(None)

    async def action_undo(self) -> None:
        """Take back what the answer above the footer is about."""
        if self.answer and self.answer.undo:
            await self.screen.run_action(self.answer.undo.action)

    def action_help(self) -> None:
        if isinstance(self.screen, Room):
            self.push_screen(Page("Help", help_rows(self.screen)))

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_jump(self) -> None:
        """Letters over everything that can have the focus, and over the tabs."""
        if isinstance(self.screen, Room):
            self.push_screen(Jump(self.screen))

    async def action_quit(self) -> None:
        self._note()
        self.exit()

    def action_theme(self, name: str) -> None:
        """Change the colours, now and for the next time."""
        self.theme = name
        try:
            settings.keep_theme(name)
        except MlxtuneError as error:
            self.reply(sorry(error))
        except OSError as error:
            self.reply(Answer("✗", "$error", one_line(str(error))))

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
            if self.answer and self.answer.undo:
                yield SystemCommand("Undo", self.answer.text, self.action_undo)
            for verb in screen.named(screen.verbs()):
                if verb.action != "app.quit":
                    yield SystemCommand(
                        f"{verb.word.capitalize()} ({verb.key})", verb.help, partial(screen.run_action, verb.action)
                    )
            for mode, room in ROOMS.items():
                if room is not type(screen):
                    letter = self.key(f"app.room('{mode}')", LETTERS[room.ROOM])
                    yield SystemCommand(f"Go to {room.ROOM} ({letter})", room.ABOUT, partial(self.action_room, mode))
            jump = self.key("app.jump", ";")
            yield SystemCommand(f"Jump ({jump})", "letters over everything that can have the focus", self.action_jump)
            if self.snapshot and len(self.snapshot.recipes) > 1:
                yield SystemCommand("Recipe", "choose the recipe that the rooms are about", self.choose_recipe)
        for name, about in ABOUT.items():
            if name != self.theme and not self.no_color:
                yield SystemCommand(f"Theme: {name}", about, partial(self.action_theme, name))
        yield SystemCommand("Screenshot", "save what is on screen as an SVG in the workspace", self.action_picture)
        yield SystemCommand(
            f"Help ({self.key('app.help', 'F1')})", "the keys of this room, and what the signs mean", self.action_help
        )
        yield SystemCommand(f"Quit ({self.key('app.quit', 'q')})", "leave; what runs goes on", self.action_quit)


def run(workspace: Path) -> None:
    """Open the app on a workspace; returns when the user leaves. Raises ``SystemExit`` with code 4 after a fault of ours."""
    app = MlxtuneApp(workspace)
    app.run()
    if app.return_code:
        raise SystemExit(4)
