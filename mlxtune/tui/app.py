"""The app, which shows one workspace in rooms. It starts, stops and resumes workers, and reads what they write."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from rich.traceback import Traceback
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, TextArea

from mlxtune.core import allocator, app_state, settings
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line, plural
from mlxtune.present.run import STATUS_LABELS
from mlxtune.tui import keys, terminal_watch
from mlxtune.tui.base import BaseApp, Room
from mlxtune.tui.help import HelpPage, help_rows
from mlxtune.tui.jump import JumpScreen
from mlxtune.tui.palette import CommandProvider, Palette
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.stylesheet import CachedStylesheet
from mlxtune.tui.terminal_program import run_in_terminal
from mlxtune.tui.theme import THEME_LABELS, THEMES
from mlxtune.tui.widgets.frame import Notice
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.workspace.index import RunView, Snapshot, WorkspaceIndex

_WATCH_SECONDS = 0.25  # between two reads of the workspace
_TICK_SECONDS = 1.0  # between redraws, so that clocks advance even if nothing else changes


@dataclass
class SnapshotTaken(Message):
    """The workspace has changed."""

    snapshot: Snapshot


def _create_room(mode: str) -> Room:
    return ROOMS[mode].load()()


class MlxtuneApp(BaseApp):
    """Displays a workspace. If ``watch`` is false, it shows only posted snapshots and saves no state.

    ``state`` takes precedence over the state that was saved when the app was last closed. Unlike that one, it may also have an
    ``adapter`` for Chat to load (its key), and a ``row`` for Review to open (its ID).
    """

    TITLE = "mlxtune"
    CSS_PATH = "mlxtune.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = {CommandProvider}  # noqa: RUF012
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {mode: partial(_create_room, mode) for mode in ROOMS}
    DEFAULT_MODE = "home"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(entry.key, f"room('{mode}')", entry.name, id=f"app.{mode}") for mode, entry in ROOMS.items()),
        Binding("f1", "help", "Help", id="app.help", priority=True),  # also over a dialog
        Binding("ctrl+p", "command_palette", "More", id="app.more", priority=True),
        Binding("semicolon,ctrl+o", "jump", "Jump", id="app.jump"),
        Binding("ctrl+y", "copy", "Copy", id="app.copy"),
        Binding("u", "undo", "Undo", id="app.undo"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+q", "quit", "Quit from anywhere", id="app.quit-now", priority=True),
        Binding("escape", "dismiss_notice", "Dismiss the notice", id="app.dismiss"),
    ]

    def __init__(
        self, workspace: Path, *, clock: Callable[[], float] = time.time, watch: bool = True, state: Mapping[str, Any] | None = None
    ) -> None:
        self._state_on_disk = app_state.load(workspace) if watch else {}
        rooms = self._state_on_disk.get("rooms")
        self._state = {**self._state_on_disk, **(state or {})}
        self._state["rooms"] = {**(rooms if isinstance(rooms, dict) else {}), **(state or {}).get("rooms", {})}
        if (mode := str(self._state.get("room"))) in ROOMS:
            self.DEFAULT_MODE = mode  # type: ignore[misc]  # Textual reads the instance attribute
        no_color = bool(os.environ.get("NO_COLOR"))
        super().__init__(workspace, ansi_color=True if no_color else None)
        self.stylesheet = CachedStylesheet(variables=self.get_css_variables())
        self.last_visit = app_state.last_saved(workspace) if watch else None
        self._watcher = WorkspaceIndex(workspace, clock) if watch else None
        self._exiting, self._save_lock = threading.Event(), threading.Lock()
        self._snapshot_pending = False  # while a terminal does not take the app's output, snapshots must not pile up
        self._created: set[str] = set()  # rooms that have been opened
        self._creating_room = False
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        self._apply_settings(no_color)
        self._restore_state()

    def _apply_settings(self, no_color: bool) -> None:
        user = settings.load()
        names = [theme.name for theme in THEMES]
        self.theme = "ansi" if no_color else user.theme if user.theme in names else names[0]
        self.key_changes, errors = keys.build_keymap(user.keys) if user.keys else ({}, [])
        self.set_keymap(self.key_changes)
        self._user_commands = user.commands
        if user.commands:
            command_keys, command_errors = keys.build_command_keys(user.commands, self.key_changes)
            errors += command_errors
            for key, name in command_keys.items():
                self.bind(name, f"user_command({key!r})", description=one_line(shlex.join(user.commands[key]), 40))
        if user.theme not in (*names, ""):
            errors.insert(0, f"Unknown theme {one_line(user.theme)}. Valid themes: {', '.join(sorted(names))}.")
        if errors := [*user.errors, *(f"{settings.FILE}: {error}" for error in errors)]:
            more = f" Other errors in the file: {len(errors) - 1}." if len(errors) > 1 else ""
            self.notice = Notice("!", "$warning", errors[0] + more, f"Edit {one_line(str(settings.path()))}.")

    # The state that is restored after a restart

    def _restore_state(self) -> None:
        run, recipe = self._state.get("run"), self._state.get("recipe")
        with suppress(OSError, ValueError):  # the name may not be a valid file name
            if isinstance(run, str) and (self.workspace / "runs" / run / "recipe.toml").is_file():
                self.selected = run
        self.adapter = self.adapter_to_load = self._state.pop("adapter", None)
        self.row_to_open = self._state.pop("row", None)
        if isinstance(recipe, str) and not Path(recipe).is_absolute():
            self._recipe = self.workspace / recipe
        self.saved_source = self._state.get("source")

    def saved_state(self, mode: str) -> dict[str, Any]:
        rooms = self._state.get("rooms")
        state = rooms.get(mode) if isinstance(rooms, dict) else None
        return state if isinstance(state, dict) else {}

    def _update_state(self) -> None:
        stack = self.screen_stack
        if not self._watcher or not stack or not isinstance(stack[0], Room):
            return
        rooms = {mode: self.saved_state(mode) for mode in ROOMS} | {self.current_mode: dict(stack[0].save_state())}
        recipe = self._recipe.relative_to(self.workspace).as_posix() if self._recipe else None
        source = self.sessions.save_state() if "sessions" in vars(self) else self.saved_source
        state = {"room": self.current_mode, "run": self.selected, "recipe": recipe, "source": source, "rooms": rooms}
        if state != self._state:
            self._state = state

    def write_state(self) -> None:
        """Write the state if it has changed. Errors are ignored, because the state is only a convenience."""
        with self._save_lock:
            state = self._state
            if state is not self._state_on_disk:
                self._state_on_disk = state
                with suppress(MlxtuneError, OSError):
                    app_state.save(self.workspace, state)

    # Watching the workspace

    def on_mount(self) -> None:
        if self._watcher:
            self.run_job(partial(self._watch, self._watcher), group="watch")
        if not self.is_headless:  # otherwise a signal would leave the terminal without a cursor
            loop = asyncio.get_running_loop()

            def quit_soon(number: int, _: object) -> None:
                if loop.is_closed():  # the app has exited, and the process waits for its threads
                    os._exit(128 + number)
                loop.call_soon_threadsafe(self._quit)

            for number in (signal.SIGTERM, signal.SIGHUP):  # asyncio's handlers would take the wakeup descriptor of the watch
                signal.signal(number, quit_soon)

    def _fatal_error(self) -> None:
        """Print a one-line error instead of Textual's traceback, which includes all local variables."""
        if os.environ.get("MLXTUNE_DEBUG") or self.is_headless:
            super()._fatal_error()
        elif not self._exit_renderables:  # report only the first error, which causes the others
            error = sys.exc_info()[1]
            self._exit_with_error(f"{type(error).__name__}: {error}")

    def panic(self, *renderables: Any) -> None:
        """Do the same for an error in Textual's input thread, such as a key sequence that is not a character."""
        traceback = next((item for item in renderables if isinstance(item, Traceback)), None)
        if traceback is None or os.environ.get("MLXTUNE_DEBUG"):
            super().panic(*renderables)
        elif not self._exit_renderables:
            stack = traceback.trace.stacks[0]
            self._exit_with_error(f"{stack.exc_type}: {stack.exc_value}")

    def _exit_with_error(self, text: str) -> None:
        self._return_code = 1
        message = one_line(f"Internal error: {text}", 400)
        super().panic(Text(f"✗ {message}\n  Runs continue. Set MLXTUNE_DEBUG=1 for a traceback."))

    def on_unmount(self) -> None:
        self._exiting.set()
        self._state = dict(self._state)  # save it even if it has not changed: the file's modification time records this visit
        self.write_state()

    def _watch(self, watcher: WorkspaceIndex) -> None:
        """Read the workspace until the app exits. Post a snapshot when it has changed or a second has passed."""
        last: Snapshot | None = None
        while not self._exiting.is_set():
            try:
                snapshot = watcher.read()
            except OSError:  # the disk does not respond: keep the last snapshot
                self._exiting.wait(_TICK_SECONDS)
                continue
            is_due = last is None or snapshot.now - last.now >= _TICK_SECONDS or replace(snapshot, now=last.now) != last
            if is_due and not self._snapshot_pending:
                last, self._snapshot_pending = snapshot, True
                self.post_message(SnapshotTaken(snapshot))
            self.write_state()
            self._exiting.wait(_WATCH_SECONDS)

    def _load_rooms(self) -> None:
        """Import the other rooms in advance, so that the first key press does not wait for an import."""
        for entry in ROOMS.values():
            if not self._exiting.is_set():
                entry.load()

    def on_snapshot_taken(self, message: SnapshotTaken) -> None:
        if self.snapshot is None:
            self.run_job(self._load_rooms, group="load rooms")
        before, snapshot = self.snapshot, message.snapshot
        in_use = self.in_use
        self.snapshot = snapshot
        self._snapshot_pending = False
        if before and before.live and not snapshot.live and self.notice and (self.notice == in_use or self.notice.glyph == "●"):
            self.notice = None  # what it said about the run is no longer true
        alive = {view.id for view in snapshot.runs if view.alive}
        if self.stopping - alive and self.notice and self.notice.glyph == "■":
            self.notice = None  # the run has stopped, and the room shows that
        self.stopping &= alive
        self._announce_proposals(before, snapshot)
        if self.selected and snapshot.find_run(self.selected) is None:
            text = f"The folder {one_line(self.selected)} was removed."
            self.notice = Notice("!", "$warning", text, "Now showing the newest run." if snapshot.runs else "")
            self.selected = None
        self._update_state()
        self.redraw()

    def _announce_proposals(self, before: Snapshot | None, snapshot: Snapshot) -> None:
        """Show a notice when a generation has finished. Review then opens its first row."""
        was_alive = {view.run.folder for view in (before.generations if before else ()) if view.alive}
        for view in snapshot.generations:
            if view.run.folder in was_alive and not view.alive:
                self.notice = self._proposal_notice(view)

    def _proposal_notice(self, view: RunView) -> Notice:
        if view.status != "finished":
            label = STATUS_LABELS[view.status]
            what = "was stopped" if view.status == "stopped" else view.status
            text = f"The generation {what}: {one_line(view.state.error, 120)}" if view.state.error else f"The generation {what}."
            hint = view.state.hint or f"Continue it with: mlxtune runs resume {view.id}"
            return Notice(label.glyph, f"${label.style}", text, one_line(hint))
        count = int(dict(view.state.summary).get("proposed", 0))
        refused = sum(dict(view.state.summary).get("refused", {}).values())
        text = f"{plural(count, 'row')} proposed, {refused:,} rejected."
        if not count:
            return Notice("!", "$warning", text, f"The reasons are in {view.run.folder / 'refused.jsonl'}.")
        with suppress(MlxtuneError, LookupError):
            self.row_to_open = str(read_json(view.run.folder / "report.json")["rows"][0])
        self.select_recipe(view.name)
        self.sessions.open_file(None)
        return Notice("✓", "$success", text, "Press R to review them, most useful first.")

    def redraw(self) -> None:
        for screen in self.screen_stack if self.is_running else ():  # screens lose their widgets while the app exits
            if isinstance(screen, Room | PageScreen):
                screen.redraw()
                screen.refresh_bindings()

    # Actions

    def action_room(self, name: str) -> None:
        """Open a room."""
        if isinstance(self.screen, Room) and self.current_mode != name and name in ROOMS:
            if self.notice and not self.busy:
                self.notice = None
            self._update_state()
            self._creating_room = name not in self._created
            self._created.add(name)
            self.switch_mode(name)

    def delay_update(self, delay: float = 0.05) -> None:
        """Delay painting only while a room is being created. Textual would do so on every mode change."""
        if self._creating_room:
            super().delay_update(delay)

    def clear_selection(self) -> None:
        """Do nothing until there is a screen. With eager tasks, a text field calls this before its screen is on the stack."""
        if self._screen_stack:
            super().clear_selection()

    async def action_undo(self) -> None:
        """Undo the action that the notice describes."""
        if self.notice and self.notice.undo:
            await self.screen.run_action(self.notice.undo.action)

    def action_user_command(self, key: str) -> None:
        """Run a command of the user's settings in the terminal, and come back when it has ended."""
        if not isinstance(self.screen, Room):
            return
        newest = next(iter(self.snapshot.runs), None) if self.snapshot else None
        fields = {
            "workspace": str(self.workspace),
            "recipe": str(self.recipe.path) if self.recipe else "",
            "run": self.selected or (newest.id if newest else ""),
            "adapter": str(self.workspace / self.adapter) if self.adapter else "",
            "row": "",
            **self.screen.command_fields(),
        }
        words = self._user_commands[key]
        if missing := next(
            (name for name, value in fields.items() if not value and any(f"{{{name}}}" in word for word in words)), ""
        ):
            self.show_notice(Notice("!", "$warning", f"This command needs {{{missing}}}, but there is none here."))
            return
        try:
            arguments = [word.format_map(fields) for word in words]
            code = run_in_terminal(self, arguments, self.workspace, hint=f"Edit {settings.FILE}.")
        except MlxtuneError as error:
            self.show_error(error)
            return
        ended = f"{one_line(words[0], 40)} exited with {code}." if code else f"{one_line(words[0], 40)} has ended."
        self.show_notice(Notice("✗" if code else "✓", "$error" if code else "$success", ended))

    def action_copy(self) -> None:
        """Copy the item under the cursor. The terminal puts it on the clipboard (OSC 52), which also works over ssh."""
        if isinstance(self.screen, Room):
            text, what = self.screen.copyable()
            if text:
                self.copy_to_clipboard(text)
            self.show_notice(
                Notice("✓", "$success", f"Copied {what}.") if text else Notice("·", "$muted", "There is nothing to copy here.")
            )

    def action_copy_serve(self) -> None:
        """Copy the command that serves the workspace, which needs a terminal of its own."""
        self.copy_to_clipboard("mlxtune serve")
        self.show_notice(Notice("✓", "$success", "Copied: mlxtune serve", "Run it in another terminal, in this workspace."))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let a character that the user's settings bind to the help be typed into a text field."""
        is_typed = action == "help" and isinstance(self.focused, Input | TextArea) and len(self.shown_key("app.help", "F1")) == 1
        return not is_typed and super().check_action(action, parameters)

    def action_help(self) -> None:
        """Show the keys of the room, also while a dialog or a page is open over it, or close the help."""
        if isinstance(self.screen, HelpPage):
            self.screen.dismiss()
        elif room := next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Room)), None):
            self.push_screen(HelpPage("Help", help_rows(room, self.screen)))

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_jump(self) -> None:
        if isinstance(self.screen, Room):
            self.push_screen(JumpScreen(self.screen))

    def _quit(self) -> None:
        self._update_state()
        self.exit()

    async def action_quit(self) -> None:
        self._quit()

    def action_theme(self, name: str) -> None:
        """Change the theme and save it in the settings."""
        self.theme = name
        try:
            settings.save_theme(name)
        except MlxtuneError as error:
            self.show_error(error)
        except OSError as error:
            self.show_notice(Notice("✗", "$error", one_line(str(error))))

    def action_picture(self) -> None:
        """Save the screen as an SVG in the workspace."""
        try:
            path = self.save_screenshot(path=str(self.workspace))
        except OSError as error:
            self.show_notice(Notice("✗", "$error", f"Could not save the screenshot: {one_line(str(error))}."))
        else:
            self.show_notice(Notice("✓", "$success", f"Saved {one_line(Path(path).name)}."))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield the palette's commands: the room's available actions, the other rooms, and the themes."""
        if isinstance(screen, Room):
            if self.notice and self.notice.undo:
                yield SystemCommand("Undo", self.notice.text, self.action_undo)
            for item in screen.with_user_keys(screen.footer_actions()):
                title = f"{item.label.capitalize()} ({item.key})"
                yield SystemCommand(title, item.help, partial(screen.run_action, item.action))
            for mode, entry in ROOMS.items():
                if mode != screen.mode:
                    key = self.shown_key(f"app.room('{mode}')", entry.key)
                    yield SystemCommand(f"Open {entry.name} ({key})", entry.load().ABOUT, partial(self.action_room, mode))
            jump = self.shown_key("app.jump", ";")
            yield SystemCommand(f"Jump ({jump})", "show a jump label on every panel", self.action_jump)
            if what := screen.copyable()[1]:
                yield SystemCommand(f"Copy ({self.shown_key('app.copy', '^y')})", f"copy {what}", self.action_copy)
            if self.snapshot and len(self.snapshot.recipes) > 1:
                yield SystemCommand("Recipe", "choose the recipe to show", self.choose_recipe)
            yield SystemCommand("Serve", "copy the command that serves this workspace's adapters over HTTP", self.action_copy_serve)
        for name, label in THEME_LABELS.items():
            if name != self.theme and not self.no_color:
                yield SystemCommand(f"Theme: {name}", label, partial(self.action_theme, name))
        yield SystemCommand("Screenshot", "save the screen as an SVG in the workspace", self.action_picture)
        yield SystemCommand(f"Help ({self.shown_key('app.help', 'F1')})", "show this room's keys and glyphs", self.action_help)
        yield SystemCommand(f"Quit ({self.shown_key('app.quit', 'q')})", "quit; runs continue", self.action_quit)


def run(workspace: Path, state: Mapping[str, Any] | None = None) -> None:
    """Open the app on a workspace and return when the user quits. Raise ``SystemExit`` with code 4 after an internal error."""
    allocator.share_arena()
    app = MlxtuneApp(workspace, state=state)
    terminal_watch.start_watch(app.write_state)
    app.run()
    if app.return_code:
        raise SystemExit(4)
