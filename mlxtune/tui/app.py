"""The app, which shows one workspace in rooms. It starts, stops and resumes workers, and reads what they write."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from rich.traceback import Traceback
from textual._styles_cache import StylesCache
from textual.actions import ActionParseResult
from textual.app import SystemCommand
from textual.await_complete import AwaitComplete
from textual.dom import DOMNode
from textual.message import Message
from textual.screen import Screen
from textual.strip import Strip
from textual.widgets import Input, TextArea

from mlxtune.core import settings
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import read_json
from mlxtune.core.machine_load import release_memory, share_arena
from mlxtune.core.text import one_line, plural
from mlxtune.runs.registry import Run
from mlxtune.tui import keys
from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.commands import CommandLog, CommandsPage
from mlxtune.tui.help import CommandProvider, HelpPage, Palette, help_rows
from mlxtune.tui.jobs import Jobs
from mlxtune.tui.key_order import OrderedKeys
from mlxtune.tui.notices import Notice, Notices
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.run_control import RunControl
from mlxtune.tui.saved_state import SavedState
from mlxtune.tui.selection import RecipeSelection
from mlxtune.tui.terminal import TerminalDriver, run_in_terminal, start_watch
from mlxtune.tui.theme import THEME_LABELS, THEMES, CachedStylesheet
from mlxtune.tui.widgets import ChoiceDialog, ChoiceOption, Draw, PageScreen, PromptDialog
from mlxtune.workspace.index import RunView, Snapshot, WorkspaceIndex

if TYPE_CHECKING:
    from mlxtune.planning.plan import PlannedRecipe
    from mlxtune.tui.session_manager import SessionManager

_WATCH_SECONDS = 0.25  # between two reads of the workspace
_EVERYWHERE = {"app.picture", "app.choose_theme", "app.help", "app.quit"}  # actions of the app in the palette over a dialog
_TICK_SECONDS = 1.0  # between redraws, so that clocks advance even if nothing else changes


@dataclass
class SnapshotTaken(Message):
    """The workspace has changed."""

    snapshot: Snapshot


def _create_room(mode: str) -> Room:
    return ROOMS[mode].load()()


class MlxtuneApp(HasActions, OrderedKeys):
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
    GROUP = NAMESPACE = "app"
    ACTIONS = (
        *(Action(f"room('{mode}')", entry.key, help=f"open {entry.name}", id=mode) for mode, entry in ROOMS.items()),
        Action("copy", "ctrl+y", "copy", when=lambda app: app.copyable[0],
               why="Nothing to copy."),
        Action("choose_recipe", label="recipe", help="choose a recipe"),
        Action("page('SearchPage')", "S", "search", "hyperparameter searches", id="searches"),
        Action("page('QueuePage')", "Q", "queue", "the queue", id="queue"),
        Action("commands", "@", "commands", "log of commands"),
        Action("maximize", "ctrl+f", "maximize", "enlarge the panel", when=lambda app: app.screen_stack and app.screen.focused),
        Action("resize(1)", ">", help="wider left column", when="room.side", id="wider"),
        Action("resize(-1)", "<", help="narrower left column", when="room.side", id="narrower"),
        Action("choose_theme", label="theme", help="choose the colors", when=lambda app: not app.no_color),
        Action("picture", label="screenshot", help="save an SVG"),
        Action("help", "f1", "help", "keys and glyphs", priority=True, when=lambda app: not app.is_help_typed),
        Action("command_palette", "ctrl+p", help="search all actions", id="more", priority=True),
        Action("undo", "u", help="undo", when="can_undo"),
        Action("dismiss_notice", "escape", help="close", id="dismiss"),
        Action("quit", "q", "quit", "quit; runs continue"),
        Action("quit", "ctrl+q", help="quit from anywhere", id="quit-now", priority=True),
    )  # fmt: skip

    def __init__(
        self, workspace: Path, *, clock: Callable[[], float] = time.time, watch: bool = True, state: Mapping[str, Any] | None = None
    ) -> None:
        self.saved = SavedState(workspace, state or {}, is_kept=watch)
        if (mode := str(self.saved.values.get("room"))) in ROOMS:
            self.DEFAULT_MODE = mode  # type: ignore[misc]  # Textual reads the instance attribute
        no_color = bool(os.environ.get("NO_COLOR"))
        super().__init__(driver_class=TerminalDriver, ansi_color=True if no_color else None)
        self.stylesheet = CachedStylesheet(variables=self.get_css_variables())
        self.workspace = workspace
        self.notices, self.jobs, self.selection, self.runs = Notices(self), Jobs(self), RecipeSelection(self), RunControl(self)
        self.commands = CommandLog(workspace)
        self.snapshot = Snapshot(0.0, workspace)  # empty until the workspace has been read
        self.selected = self.saved.run()  # the ID of the displayed run; None means the newest
        self.selection.recipe_path = self.saved.recipe()
        self.planned: PlannedRecipe | None = None  # the last one
        # What one room asks another one to do
        self.adapter: str | None = self.saved.values.pop("adapter", None)  # the key of the adapter that Chat uses
        self.adapter_to_load = self.adapter  # the key of an adapter that Chat should load next
        self.row_to_open: str | None = self.saved.values.pop("row", None)  # a row's hash, or the beginning of one, for Review
        self.run_to_evaluate: Run | None = None  # that Evaluate should ask about next
        self._watcher = WorkspaceIndex(workspace, clock) if watch else None
        self._exiting = threading.Event()
        self._snapshot_pending = False  # while a terminal does not take the app's output, snapshots must not pile up
        self._created: set[str] = set()  # rooms that have been opened
        self._creating_room = False
        self.key_changes: keys.Keymap = {}  # keys by binding ID, for bindings that the user's settings change
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        self._apply_settings(no_color)

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
            self.notices.current = Notice("warning", errors[0] + more, f"Edit {one_line(str(settings.path()))}.")

    @property
    def has_read(self) -> bool:
        return self.snapshot.now > 0

    @cached_property
    def sessions(self) -> SessionManager:
        """The manager of the source session that Data, Groups and Review share."""
        from mlxtune.tui.session_manager import SessionManager

        sessions = SessionManager(self)
        with suppress(KeyError, TypeError, ValueError, AttributeError, OSError):  # the state may be anything
            sessions.restore_state(self.saved.values["source"])
        return sessions

    def _update_state(self) -> None:
        """Note the state for the next time that it is written."""
        stack = self.screen_stack
        if not self._watcher or not stack or not isinstance(stack[0], Room):
            return
        shown = {**stack[0].save_state(), "side": stack[0].side_width}
        rooms = {mode: self.saved.of_room(mode) for mode in ROOMS} | {self.current_mode: shown}
        path = self.selection.recipe_path
        recipe = path.relative_to(self.workspace).as_posix() if path else None
        source = self.sessions.save_state() if "sessions" in vars(self) else self.saved.values.get("source")
        self.saved.values = {"room": self.current_mode, "run": self.selected, "recipe": recipe, "source": source, "rooms": rooms}

    def pop_screen(self) -> AwaitComplete:
        """Remove the top screen, clear two caches of Textual that otherwise keep growing, and return free memory.

        Its cache of colors keeps widgets and their rendered lines alive as keys. Its cache of escape sequences has one entry
        for each place where text of a style was drawn, up to 16,384.
        """
        StylesCache.get_inner_outer.cache_clear()
        Strip.render_ansi.cache_clear()
        release_memory()
        return super().pop_screen()

    # Watching the workspace

    def on_mount(self) -> None:
        if self._watcher:
            self.jobs.run(partial(self._watch, self._watcher), group="watch")
        if not self.is_headless:  # otherwise a signal would leave the terminal without a cursor
            loop = asyncio.get_running_loop()

            def quit_soon(number: int, _: object) -> None:
                if loop.is_closed():  # the app has exited, and the process waits for its threads
                    os._exit(128 + number)
                loop.call_soon_threadsafe(self._quit)

            for number in (signal.SIGTERM, signal.SIGHUP):  # asyncio's handlers would take the wakeup descriptor of the watch
                signal.signal(number, quit_soon)

    def _handle_exception(self, error: Exception) -> None:
        """Print a one-line error instead of Textual's traceback, which includes all local variables."""
        if os.environ.get("MLXTUNE_DEBUG") or self.is_headless:
            super()._handle_exception(error)
        else:
            self._exit_with_error(f"{type(error).__name__}: {error}")

    def panic(self, *renderables: Any) -> None:
        """Do the same for an error in Textual's input thread, such as a key sequence that is not a character."""
        traceback = next((item for item in renderables if isinstance(item, Traceback)), None)
        if traceback is None or os.environ.get("MLXTUNE_DEBUG"):
            super().panic(*renderables)
        else:
            stack = traceback.trace.stacks[0]
            self._exit_with_error(f"{stack.exc_type}: {stack.exc_value}")

    def _exit_with_error(self, text: str) -> None:
        if self.return_code is None:  # report only the first error, which causes the others
            message = one_line(f"Internal error: {text}", 400)
            self.exit(return_code=1, message=Text(f"✗ {message}\n  Runs continue. Set MLXTUNE_DEBUG=1 for a traceback."))

    def on_unmount(self) -> None:
        self._exiting.set()
        self.saved.write(visited=True)

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
            self.saved.write()
            self._exiting.wait(_WATCH_SECONDS)

    def _load_rooms(self) -> None:
        """Import the other rooms in advance, so that the first key press does not wait for an import."""
        for entry in ROOMS.values():
            if not self._exiting.is_set():
                entry.load()

    def on_snapshot_taken(self, message: SnapshotTaken) -> None:
        if not self.has_read:
            self.jobs.run(self._load_rooms, group="load rooms")
        before, snapshot, in_use = self.snapshot, message.snapshot, self.runs.in_use
        self.snapshot = snapshot
        self._snapshot_pending = False
        if before.live and not snapshot.live:
            self.notices.drop("working")
            self.notices.current = None if self.notices.current == in_use else self.notices.current
        kinds = (snapshot.runs, snapshot.evals, snapshot.searches, snapshot.generations, snapshot.exports)
        alive = {view.id for views in kinds for view in views if view.alive}
        if self.runs.stopping - alive:
            self.notices.drop("stopped")  # the room shows that the run has stopped
        self.runs.stopping &= alive
        was_alive = {view.run.folder for view in before.generations if view.alive}
        for view in snapshot.generations:
            if view.run.folder in was_alive and not view.alive:
                self.notices.current = self._proposal_notice(view)
        if self.selected and snapshot.find_run(self.selected) is None:
            text = f"The folder {one_line(self.selected)} was removed."
            self.notices.current = Notice("warning", text, "Now showing the newest run." if snapshot.runs else "")
            self.selected = None
        self._update_state()
        self.redraw()

    def _proposal_notice(self, view: RunView) -> Notice:
        """Return a notice about a generation that has ended. Review then opens its first row."""
        if view.status != "finished":
            what = "was stopped" if view.status == "stopped" else view.status
            text = f"The generation {what}: {one_line(view.state.error, 120)}" if view.state.error else f"The generation {what}."
            hint = view.state.hint or f"Continue it with: mlxtune runs resume {view.id}"
            return Notice("stopped" if view.status == "stopped" else "error", text, one_line(hint))
        count = int(dict(view.state.summary).get("proposed", 0))
        refused = sum(dict(view.state.summary).get("refused", {}).values())
        text = f"{plural(count, 'row')} proposed, {refused:,} rejected."
        if not count:
            return Notice("warning", text, f"The reasons are in {view.run.folder / 'refused.jsonl'}.")
        with suppress(MlxtuneError, LookupError):
            self.row_to_open = str(read_json(view.run.folder / "report.json")["rows"][0])
        self.selection.select_recipe(view.name)
        self.sessions.open_file(None)
        return Notice("done", text, "Press R to review them, most useful first.")

    def redraw(self) -> None:
        for screen in self.screen_stack if self.is_running else ():  # screens lose their widgets while the app exits
            if isinstance(screen, Room | PageScreen):
                screen.redraw()
                screen.refresh_bindings()

    # Actions

    def action_room(self, name: str) -> None:
        if isinstance(self.screen, Room) and self.current_mode != name and name in ROOMS:
            if not self.jobs.busy:
                self.notices.current = None
            self._update_state()
            self._creating_room = name not in self._created
            self._created.add(name)
            self.screen._query_one_cache.clear()  # Textual keeps 1,024 results from earlier states of its widgets, and the widgets
            self.switch_mode(name)

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action, or show why it is impossible now if its screen knows that."""
        if await super().run_action(action, default_namespace, namespaces):
            return True
        refusal = default_namespace.refusal(str(action)) if isinstance(default_namespace, HasActions) else None
        if refusal is not None:
            self.notices.show(refusal)
        return refusal is not None

    def delay_update(self, delay: float = 0.05) -> None:
        """Delay painting only while a room is being created. Textual would do so on every mode change."""
        if self._creating_room:
            super().delay_update(delay)

    def clear_selection(self) -> None:
        """Do nothing until there is a screen. With eager tasks, a text field calls this before its screen is on the stack."""
        if self.screen_stack:
            super().clear_selection()

    @property
    def can_undo(self) -> bool:
        return self.notices.current is not None and self.notices.current.undo not in ("", "redo")

    async def action_undo(self) -> None:
        if self.notices.current and self.notices.current.undo:
            await self.screen.run_action(self.notices.current.undo)

    def _command_fields(self, room: Room) -> dict[str, str]:
        newest = next(iter(self.snapshot.runs), None)
        return {
            "workspace": str(self.workspace),
            "recipe": str(self.selection.recipe.path) if self.selection.recipe else "",
            "run": self.selected or (newest.id if newest else ""),
            "adapter": str(self.workspace / self.adapter) if self.adapter else "",
            "row": "",
            **room.command_fields(),
        }

    def action_commands(self) -> None:
        if isinstance(self.screen, Room):
            lead = f"{self.workspace}/"
            fields = {name: value.removeprefix(lead) for name, value in self._command_fields(self.screen).items()}
            self.push_screen(CommandsPage(self.screen, fields))

    def action_page(self, name: str) -> None:
        from mlxtune.tui.rooms.train import pages  # its imports would slow down the app's start

        self.push_screen(getattr(pages, name)())

    def action_user_command(self, key: str) -> None:
        if not isinstance(self.screen, Room):
            return
        fields = self._command_fields(self.screen)
        words = self._user_commands[key]
        missing = [name for name, value in fields.items() if not value and any(f"{{{name}}}" in word for word in words)]
        if missing:
            self.notices.show(Notice("warning", f"This command needs {{{missing[0]}}}, but there is none here."))
            return
        with self.notices.showing_errors():
            arguments = [word.format_map(fields) for word in words]
            code = run_in_terminal(self, arguments, self.workspace, hint=f"Edit {settings.FILE}.")
            ended = f"{one_line(words[0], 40)} exited with {code}." if code else f"{one_line(words[0], 40)} has ended."
            self.notices.show(Notice("error" if code else "done", ended))

    def action_dismiss_notice(self) -> None:
        self.notices.dismiss()

    @property
    def copyable(self) -> tuple[str, str]:
        """The text to copy in the current room, and its description."""
        return self.screen_stack[0].copyable() if self.screen_stack and isinstance(self.screen_stack[0], Room) else ("", "")

    def copy(self, text: str, what: str) -> None:
        """Copy ``text``. The terminal puts it on the clipboard (OSC 52), which also works over ssh."""
        self.copy_to_clipboard(text)
        self.notices.show(Notice("done", f"Copied {what}."))

    def action_copy(self) -> None:
        self.copy(*self.copyable)

    def choose(self, title: str, options: Sequence[ChoiceOption], then: Callable[[Any], Any], text: str = "") -> None:
        """Ask the user to choose an option, and call ``then`` with its value. Nothing happens if that is ``None``, or on escape."""
        self.push_screen(ChoiceDialog(title, text, options), lambda value: None if value is None else then(value))

    def ask(self, title: str, text: str | Draw, then: Callable[[str], Any], value: str = "", **options: Any) -> None:
        """Ask the user for a line of text with a :class:`PromptDialog`, and call ``then`` with it unless it is empty."""
        self.push_screen(PromptDialog(title, text, value, **options), lambda text: then(text) if text else None)

    def action_choose_recipe(self) -> None:
        self.selection.choose_recipe()

    @property
    def is_help_typed(self) -> bool:
        """Whether the key of the help is a character that the user is typing into a text field."""
        return isinstance(self.focused, Input | TextArea) and len(self.show_action("help").key) == 1

    def action_help(self) -> None:
        """Show the keys of the room, also while a dialog or a page is open over it, or close the help."""
        if isinstance(self.screen, HelpPage):
            self.screen.dismiss()
        elif room := next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Room)), None):
            self.push_screen(HelpPage("Help", help_rows(room, self.screen)))

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def _quit(self) -> None:
        self._update_state()
        self.exit()

    async def action_quit(self) -> None:
        self._quit()

    def action_maximize(self) -> None:
        screen = self.screen
        if screen.maximized is None and screen.focused is not None:
            screen.maximize(screen.focused)
        else:
            screen.minimize()

    @property
    def room(self) -> Room | None:
        """The room on show, unless something is open over it."""
        return self.screen if self.screen_stack and isinstance(self.screen, Room) else None

    def action_resize(self, by: int) -> None:
        if self.room:
            self.room.resize_side(by)

    def action_choose_theme(self) -> None:
        before = self.theme
        options = [ChoiceOption(name, name, label) for name, label in THEME_LABELS.items()]

        def preview(name: str) -> None:
            self.theme = name

        def chosen(name: str | None) -> None:
            self.theme = name or before
            if name:
                with self.notices.showing_errors():
                    settings.save_theme(name)

        self.push_screen(ChoiceDialog("Theme", "", options, preview, cursor=[*THEME_LABELS].index(before)), chosen)

    def action_picture(self) -> None:
        try:
            path = self.save_screenshot(path=str(self.workspace))
        except OSError as error:
            self.notices.show(Notice("error", f"Could not save the screenshot: {one_line(str(error))}."))
        else:
            self.notices.show(Notice("done", f"Saved {one_line(Path(path).name)}."))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield the palette's commands: the room's available actions, the other rooms, and the app's actions."""
        if isinstance(screen, Room):
            if self.notices.current and self.notices.current.undo:
                yield SystemCommand("Undo", self.notices.current.text, self.action_undo)
            yield from _commands(screen)
            for mode, entry in ROOMS.items():
                if mode != screen.mode:
                    key = self.show_action(f"room('{mode}')").key
                    yield SystemCommand(f"Open {entry.name} ({key})", entry.load().ABOUT, partial(self.action_room, mode))
            own = {shown.click for shown in screen.shown_actions()}
            yield from _commands(self, lambda click: click not in own)
        else:
            yield from _commands(self, _EVERYWHERE.__contains__)


def _commands(node: HasActions, wanted: Callable[[str], bool] = lambda click: True) -> Iterator[SystemCommand]:
    """Yield the palette's commands for the possible actions of ``node`` whose click is ``wanted``."""
    for shown in node.shown_actions():
        if wanted(shown.click):
            title = f"{shown.label.capitalize()} ({shown.key})" if shown.key else shown.label.capitalize()
            yield SystemCommand(title, shown.help, partial(node.app.run_action, shown.name, node))


def run(workspace: Path, state: Mapping[str, Any] | None = None) -> None:
    """Open the app on a workspace and return when the user quits. Raise ``SystemExit`` with code 4 after an internal error."""
    share_arena()
    app = MlxtuneApp(workspace, state=state)
    start_watch(app.saved.write)
    app.run()
    if app.return_code:
        raise SystemExit(4)
