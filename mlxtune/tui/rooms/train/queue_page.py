"""The queue page over the Train room: the commands that run one after another, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from textual.app import ComposeResult
from textual.content import Content

from mlxtune.core.files import file_stamp
from mlxtune.core.text import one_line, plural
from mlxtune.runs.queue import FILE, Queue, QueueEntry
from mlxtune.tui.actions import Action
from mlxtune.tui.render.text import cell, invitation, key, line, lines
from mlxtune.tui.widgets import ChoiceOption, ListPanel, PageScreen, Panel, Section
from mlxtune.workspace.index import RecipeView

_COMMANDS = (
    ChoiceOption("train", "Train", "then evaluate the adapter"),
    ChoiceOption("search", "Search", "for better hyperparameters, then evaluate the selected adapter"),
    ChoiceOption("eval", "Evaluate the base", "on the held-out rows"),
)


class QueuePage(PageScreen):
    """Lists, adds, removes, and starts the commands of the workspace's queue."""

    GROUP = "queue"
    ACTIONS = (
        Action("start", "s", "start", "run the commands", when="can_start"),
        Action("add", "a", "add", "add a command", when="recipes", why="There is no recipe."),
        Action("remove", "x", "remove", "remove the command", when="waiting", why="The command was started."),
        Action(
            "clear", "c", "clear", "remove all commands that have not been started",
            when=lambda page: any(entry.status == "waiting" for entry in page.entries), why="No command is waiting.",
        ),
        Action("dismiss", "escape,q,w", "close", "close", id="close"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__("Queue")
        self._cache: tuple[object, list[QueueEntry]] | None = None

    def compose_body(self) -> ComposeResult:
        yield Section("Queue", Panel(id="queue-banner"), lit=True, id="queue-head")
        yield Section("Commands", ListPanel(id="queue-commands"), id="queue-list", classes="fill")

    @property
    def queue(self) -> Queue:
        return Queue(self.app.workspace)

    @property
    def entries(self) -> list[QueueEntry]:
        """The commands that were not removed, read again only if the file has changed."""
        stamp = file_stamp(self.queue.workspace / FILE)
        if self._cache is None or self._cache[0] != stamp:
            self._cache = (stamp, [entry for entry in self.queue.entries() if entry.status != "cleared"])
        return self._cache[1]

    @property
    def recipes(self) -> list[RecipeView]:
        return [view for view in self.app.snapshot.startable if view.recipe]

    @property
    def waiting(self) -> QueueEntry | None:
        """The command under the cursor if it has not been started."""
        cursor, entries = self.query_one("#queue-commands", ListPanel).cursor, self.entries
        return entries[cursor] if cursor < len(entries) and entries[cursor].status == "waiting" else None

    def redraw(self) -> None:
        if not self.is_mounted or not self.query("#queue-list"):  # the page is closing
            return
        entries, running = self.entries, self.queue.is_running
        can_add = bool(self.recipes)
        self.query_one("#queue-list").display = bool(entries)
        self.query_one("#queue-banner", Panel).update(lambda width, _height: draw_banner(entries, running, can_add, width))
        commands = self.query_one("#queue-commands", ListPanel)
        commands.set(len(entries), lambda at, width: draw_row(entries[at], running, width), on_move=lambda _: self.draw_keys())
        if self.focused is None and entries:
            commands.focus()
        self.draw_keys()
        self.draw_notices()

    @property
    def can_start(self) -> bool:
        return not self.queue.is_running and any(entry.status in ("waiting", "started") for entry in self.entries)

    def action_start(self) -> None:
        self.app.runs.start_worker(self.queue.start_runner, lambda _: self.redraw(), busy="Starting the queue.")

    def action_add(self) -> None:

        def ask(path: Path) -> None:
            name = str(path.relative_to(self.app.workspace) if path.is_relative_to(self.app.workspace) else path)
            self.app.choose("Add which command?", _COMMANDS, lambda verb: self._change(lambda: self.queue.add((verb, name))), name)

        self.app.runs.with_recipe(self.recipes, ask)

    def _change(self, change: Callable[[], object]) -> None:
        self.app.jobs.run(change, lambda _: self.redraw(), group="queue", exclusive=False)

    def action_remove(self) -> None:
        if entry := self.waiting:
            self._change(lambda: self.queue.remove(entry.number))

    def action_clear(self) -> None:
        self._change(self.queue.remove)


_GLYPHS = {
    "waiting": ("○", "$faint"), "started": ("●", "bold $primary"), "done": ("✓", "bold $success"), "failed": ("✗", "bold $error"),
}  # fmt: skip
_INTERRUPTED = ("‖", "$warning")


def draw_banner(entries: Sequence[QueueEntry], running: bool, can_add: bool, width: int) -> Content:
    """Return how many commands are done and waiting, and whether the queue runs."""
    if not entries:
        about = "Runs commands one after another, also while the app is closed."
        add = key("a", "add a command", "screen.add") if can_add else Content.styled("Add a recipe first.", "$muted")
        return invitation(width, "The queue is empty.", add, about=about)
    counts = {status: sum(entry.status == status for entry in entries) for status in _GLYPHS}
    glyph, state = (("  ● ", "bold $primary"), "running") if running else (("  ■ ", "$muted"), "not running")
    facts = f"   {counts['done']} of {len(entries)} done" + (f", {counts['failed']} failed" if counts["failed"] else "")
    rows = [line(glyph, (state, "bold"), (facts, "$muted")).truncate(max(width, 0), ellipsis=True)]
    left = counts["waiting"] + counts["started"]
    if not running and left:
        verb = "continue with" if counts["started"] else "run"
        rows.append(line("    ", key("s", f"{verb} {plural(left, 'command')}", "screen.start")))
    return lines(*rows)


def draw_row(entry: QueueEntry, running: bool, width: int) -> Content:
    """Return a command: its state, number, and text, and its run or the reason why it failed."""
    interrupted = entry.status == "started" and not running
    note = "interrupted" if interrupted else one_line(entry.message)
    glyph, number = _INTERRUPTED if interrupted else _GLYPHS[entry.status], cell(str(entry.number), 3, "$muted", right=True)
    command = (one_line(entry.text), "bold" if entry.status == "started" else "")
    shown = line(glyph, " ", number, "  ", command, "   ", (note, "$error" if entry.status == "failed" else "$muted"))
    return shown.truncate(max(width, 0), ellipsis=True)
