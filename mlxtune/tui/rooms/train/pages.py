"""The pages over the Train room: a search, with its leaderboard, its rates, and its hyperparameters, and the queue of commands."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from textual.app import ComposeResult
from textual.content import Content

from mlxtune.core.files import file_stamp
from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.search import decision_blocks, leaderboard_table, trend_text, value_text
from mlxtune.present.words import WORDS
from mlxtune.runs.queue import FILE, Queue, QueueEntry
from mlxtune.training.search import board as boards
from mlxtune.training.search.leaderboard import Entry, Leaderboard, read_leaderboard
from mlxtune.tui import draw
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.charts import Curve, Series, draw_chart
from mlxtune.tui.render.text import RECIPE_KEY, Part, cell, invitation, key, line, lines, marked, paragraph
from mlxtune.tui.room import NO_RECIPE
from mlxtune.tui.rooms.train.render import log
from mlxtune.tui.widgets import ChoiceOption, ListPanel, PageScreen, Panel, Section
from mlxtune.workspace.index import RunView


class SearchPage(PageScreen):
    """Shows the newest search or, after [ and ], an older one."""

    GROUP = "search"
    ACTIONS = (
        Action("choose('drop')", "x", "drop", when="view.alive", id="drop"),
        Action("choose('pin')", "a", "pin", "keep the trial from being pruned", when="view.alive", id="pin"),
        Action("stop", "s", "stop", when="view.alive", command="runs stop SEARCH"),
        Action("resume", "r", "resume", "continue the search", when="can_resume", needs_accelerator=True,
               command="runs resume SEARCH"),
        Action("new", "n", "new search", "a new search", when="app.runs.can_start", why=NO_RECIPE,
               needs_accelerator=True, command="search {recipe}"),
        Action("turn(1)", "[", "older", when=lambda page: page.can_turn(1), id="older"),
        Action("turn(-1)", "]", "newer", when=lambda page: page.can_turn(-1), id="newer"),
        Action("dismiss", "escape,q,S", "close", id="close"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__("Search")
        self._index = 0
        self._cache: tuple[object, Leaderboard | None] | None = None

    def compose_body(self) -> ComposeResult:
        yield Section("Search", Panel(id="search-banner"), lit=True, id="search-head")
        yield Section("Leaderboard", ListPanel(id="search-trials"), id="search-board", classes="fill")
        yield Section("Contract pass rate", Panel(id="search-rates"), id="search-chart")
        yield Section("Hyperparameters", Panel(id="search-values"), id="search-strips")

    @property
    def view(self) -> RunView | None:
        searches = self.app.snapshot.searches
        return searches[min(self._index, len(searches) - 1)] if searches else None

    def _board(self, view: RunView) -> Leaderboard | None:
        """Return the leaderboard, read again only if the search has written an event or the user has chosen something."""
        stamp = (view.id, view.updated, view.status, file_stamp(view.run.folder / boards.CHOICES))
        if self._cache is None or self._cache[0] != stamp:
            self._cache = (stamp, None)
            with self.app.notices.showing_errors():
                self._cache = (stamp, read_leaderboard(view.run.folder))
        return self._cache[1]

    @property
    def _entry(self) -> Entry | None:
        board = self._board(self.view) if self.view else None
        return self.query_one("#search-trials", ListPanel).pick(board.entries) if board else None

    def draw(self) -> None:
        view = self.view
        board = self._board(view) if view else None
        for name in ("#search-board", "#search-strips"):
            self.query_one(name).display = board is not None
        self.query_one("#search-chart").display = board is not None and self.app.size.height >= 34
        self.draw_keys()
        head, panel = self.query_one("#search-head", Section).head, self.query_one("#search-banner", Panel)
        if view is None:
            new = key("n", "search for better hyperparameters", "screen.new") if self.app.snapshot.recipes else RECIPE_KEY
            panel.update(lambda width, _height: invitation(width, "No searches yet.", new))
            return
        head.set(title=f"Search {view.name}", note=view.title)
        now, stopping = self.app.snapshot.now, view.id in self.app.runs.stopping
        panel.update(lambda width, _height: draw_banner(view, board, now, stopping, width))
        if board is None:
            return
        shown, trials = board, self.query_one("#search-trials", ListPanel)
        table = replace(leaderboard_table(board, alive=view.alive), title="", note="")
        rows = cache(lambda width: draw.table_rows(table, width))
        trials.set(
            len(shown.entries), lambda index, width: rows(width + 2)[1 + index][2:],  # the list draws the gutter
            header=lambda width: rows(width)[0], on_move=lambda index: self._draw_trial(shown, index),
        )  # fmt: skip
        if self.focused is None:
            trials.focus()
        self._draw_trial(shown, trials.cursor)

    def _draw_trial(self, board: Leaderboard, index: int) -> None:
        number = board.entries[index].number
        title = f"Contract pass rate of trial {number}"
        self.query_one("#search-chart", Section).head.set(title=title, note="after each rung, in percent")
        self.query_one("#search-rates", Panel).update(lambda width, height: rates(board, number, width, height))
        note = "change in pass rate over the range, 95% interval" if board.trends else ""
        self.query_one("#search-strips", Section).head.set(note=note)
        self.query_one("#search-values", Panel).update(lambda width, _height: positions(board, number, width))

    @property
    def can_resume(self) -> bool:
        view = self.view
        return view is not None and view.status in ("stopped", "crashed", "failed") and self.app.runs.accelerator_free

    def can_turn(self, by: int) -> bool:
        return 0 <= self._index + by < len(self.app.snapshot.searches)

    def action_turn(self, by: int) -> None:
        self._index += by
        self.redraw()

    def action_choose(self, choice: boards.Choice) -> None:
        if (view := self.view) and (entry := self._entry):
            self.app.jobs.run(lambda: boards.choose(view.run.folder, choice, entry.number), lambda _: self.redraw(), group="search")

    def action_stop(self) -> None:
        if self.view:
            self.app.runs.confirm_stop(self.view)

    def action_resume(self) -> None:
        if view := self.view:
            self.app.runs.resume(view, f"Continuing {view.name}.", lambda _: self.redraw())

    def action_new(self) -> None:
        self._index = 0
        self.app.runs.new_search()


def draw_banner(view: RunView, board: Leaderboard | None, now: float, stopping: bool, width: int) -> Content:
    """Return the status of a search, its spent steps, and its decision so far; until it has planned its trials, the log."""
    label, state = WORDS.statuses[view.status], view.state
    word = "stopping" if stopping and view.alive else label.text
    parts: list[Part] = [(f"  {label.glyph} ", f"bold ${label.style}"), (word, "bold")]
    if view.alive and board and board.outcome:
        parts.append((f"  evaluating trial {board.outcome.decision.selected}", "$muted"))
    if view.alive and state.started:
        parts.append((f"  {duration(now - state.started)}", "$muted"))
    if board:
        steps, compared = plural(board.trained_steps, "step"), plural(board.rows, "validation row")
        parts.append((f"  {steps} trained, compared on {compared}", "$muted"))
    rows = [line(*parts).truncate(max(width, 0), ellipsis=True)]
    if view.status == "failed":
        rows += marked("✗", "$error", one_line(state.error), width, "bold")
        rows += [paragraph(one_line(state.hint), width, "    ")] if state.hint else []
    elif view.status in ("crashed", "stopped"):
        rows.append(line("    every result saved   ", key("r", "continue", "screen.resume")))
    elif board:
        rows += draw.rows(decision_blocks(board), width)
    else:
        rows.append(log(view.log, (), width, 6))
    return lines(*rows)


def rates(board: Leaderboard, number: int, width: int, height: int) -> Content:
    points = {
        entry.number: [(float(steps), 100 * rate) for steps, rate in zip(entry.rungs, entry.rates, strict=False)]
        for entry in board.entries
    }
    beside = tuple(Series(points[other], "$muted") for other in points if other != number and points[other])
    own, last = points.get(number, []), max(entry.rungs[-1] for entry in board.entries)
    return draw_chart(Curve([], own, own, last, beside, (0.0, 100.0)), width, height)


def positions(board: Leaderboard, selected: int, width: int) -> Content:
    """Return a row per hyperparameter: its range with the trials by number, and the trend of the pass rate over the range."""
    rows = []
    known = {trend.label: trend for trend in board.trends}
    best = {entry.number: index for index, entry in enumerate(board.entries)}
    for label, places, ends in zip(board.parameters, board.places, board.ends, strict=True):
        strip = [(" ", "")] * max(12, min(36, width - 58))
        strip[0] = strip[-1] = ("┊", "$line")
        for number in sorted(places, key=lambda number: (number == selected, -best.get(number, 99))):
            column = round(places[number] * (len(strip) - 1))
            style = "bold $primary" if number == selected else "" if best.get(number, 99) < 3 else "$faint"
            strip[column] = (str(number % 10), style)
        low, high = (value_text(value) for value in ends)
        start = line("  ", cell(label, 10, "$muted"), cell(low, 8, "$muted", right=True))
        parts: list[Part] = [start, " ", *strip, " ", cell(high, 8, "$muted")]
        if trend := known.get(label):
            parts.append((trend_text(trend), "bold"))
        rows.append(line(*parts))
    return lines(*rows)


_COMMANDS = (
    ChoiceOption("train", "Train", "then evaluate the adapter"),
    ChoiceOption("search", "Search", "then evaluate the best adapter"),
    ChoiceOption("eval", "Evaluate the base", "on the held-out rows"),
)


class QueuePage(PageScreen):
    """Lists, adds, removes, and starts the commands of the workspace's queue."""

    GROUP = "queue"
    ACTIONS = (
        Action("start", "r", "run", "run the commands", when="can_start", command="queue run"),
        Action("add", "n", "add", when="app.snapshot.recipes", why=NO_RECIPE,
               command="queue add train {recipe}"),
        Action("remove", "x", "remove", when="waiting", why="It was started.",
               command="queue remove NUMBER"),
        Action("undo", "u", "undo", "add it again", when="_removed",
               why="Nothing was removed.", command="queue add COMMAND"),
        Action("dismiss", "escape,q,Q", "close", id="close"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__("Queue")
        self._removed: tuple[str, ...] = ()  # the command that was removed last
        self._cache: tuple[object, list[QueueEntry]] | None = None

    def compose_body(self) -> ComposeResult:
        yield Section("Queue", Panel(id="queue-banner"), lit=True, id="queue-head")
        yield Section("Commands", ListPanel(id="queue-commands"), id="queue-list", classes="fill")
        yield Section("Command", Panel(id="queue-command"), id="queue-entry")

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
    def entry(self) -> QueueEntry | None:
        return self.query_one("#queue-commands", ListPanel).pick(self.entries)

    @property
    def waiting(self) -> QueueEntry | None:
        """The command under the cursor if it has not been started."""
        return entry if (entry := self.entry) and entry.status == "waiting" else None

    def draw(self) -> None:
        entries, running = self.entries, self.queue.is_running
        can_add = bool(self.app.snapshot.recipes)
        self.query_one("#queue-list").display = self.query_one("#queue-entry").display = bool(entries)
        self.query_one("#queue-banner", Panel).update(lambda width, _height: draw_queue(entries, running, can_add, width))
        commands = self.query_one("#queue-commands", ListPanel)
        commands.set(
            len(entries), lambda at, width: draw_command(entries[at], running, width), on_move=lambda _: self._draw_entry()
        )
        if self.focused is None and entries:
            commands.focus()
        self._draw_entry()

    def _draw_entry(self) -> None:
        self.draw_keys()
        if entry := self.entry:
            texts = (f"mlxtune {entry.text}", ""), _note(entry, self.queue.is_running)
            self.query_one("#queue-entry", Section).show(
                lambda width, _height: lines(*(paragraph(one_line(text), width, style=style) for text, style in texts if text)),
                title=f"Command {entry.number}",
            )

    @property
    def can_start(self) -> bool:
        return not self.queue.is_running and any(entry.status in ("waiting", "started") for entry in self.entries)

    def action_start(self) -> None:
        self.app.runs.start_worker(self.queue.start_runner, lambda _: self.redraw(), busy="Starting the queue.")
        self.app.commands.add("queue", "run", "--detach")

    def action_add(self) -> None:
        def ask(path: Path) -> None:
            name = str(path.relative_to(self.app.workspace) if path.is_relative_to(self.app.workspace) else path)

            def add(verb: str) -> None:
                self.app.commands.add("queue", "add", verb, name)
                self._change(lambda: self.queue.add((verb, name)))

            self.app.choose("Add which command?", _COMMANDS, add, name)

        self.app.runs.with_recipe(ask)

    def _change(self, change: Callable[[], object]) -> None:
        self.app.jobs.run(change, lambda _: self.redraw(), group="queue", exclusive=False)

    def action_remove(self) -> None:
        if entry := self.waiting:
            self.app.commands.add("queue", "remove", str(entry.number))
            self._change(lambda: self.queue.remove(entry.number))
            self._removed = entry.command
            self.app.notices.show(Notice("done", f"Removed: {one_line(entry.text, 200)}.", "u adds it again."))

    def action_undo(self) -> None:
        command, self._removed = self._removed, ()
        self.app.notices.show(None)
        self.app.commands.add("queue", "add", *command)
        self._change(lambda: self.queue.add(command))


def draw_queue(entries: Sequence[QueueEntry], running: bool, can_add: bool, width: int) -> Content:
    if not entries:
        add = key("n", "add a command", "screen.add") if can_add else Content.styled("Add a recipe first.", "$muted")
        return invitation(width, "The queue is empty.", add)
    counts = {status: sum(entry.status == status for entry in entries) for status in WORDS.queued}
    glyph, state = (("  ● ", "bold $primary"), "running") if running else (("  ■ ", "$muted"), "not running")
    facts = f"   {counts['done']} of {len(entries)} done" + (f", {counts['failed']} failed" if counts["failed"] else "")
    rows = [line(glyph, (state, "bold"), (facts, "$muted")).truncate(max(width, 0), ellipsis=True)]
    left = counts["waiting"] + counts["started"]
    if not running and left:
        verb = "continue with" if counts["started"] else "run"
        rows.append(line("    ", key("r", f"{verb} {plural(left, 'command')}", "screen.start")))
    return lines(*rows)


def _note(entry: QueueEntry, running: bool) -> tuple[str, str]:
    text = "interrupted" if entry.status == "started" and not running else entry.message
    return one_line(text), "$error" if entry.status == "failed" else "$muted"


def draw_command(entry: QueueEntry, running: bool, width: int) -> Content:
    """Return a command: its state, number, and text, and its run or the reason why it failed."""
    interrupted = entry.status == "started" and not running
    glyph, style = ("‖", "warning") if interrupted else WORDS.queued[entry.status]
    number = cell(str(entry.number), 3, "$muted", right=True)
    command = (one_line(entry.text), "bold" if entry.status == "started" else "")
    shown = line((glyph, draw.token(style)), " ", number, "  ", command, "   ", _note(entry, running))
    return shown.truncate(max(width, 0), ellipsis=True)
