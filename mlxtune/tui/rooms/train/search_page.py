"""The search page over the Train room: the leaderboard of a search, its rates, and the effect of each hyperparameter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import file_stamp
from mlxtune.present.search import leaderboard_table
from mlxtune.training.search import board as boards
from mlxtune.training.search.leaderboard import Entry, Leaderboard, read_leaderboard
from mlxtune.tui import draw
from mlxtune.tui.rooms.train import search_render
from mlxtune.tui.widgets.frame import Notice
from mlxtune.tui.widgets.list import ListPanel
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.tui.widgets.panel import Panel
from mlxtune.tui.widgets.section import Section
from mlxtune.workspace import control
from mlxtune.workspace.index import RunView


class SearchPage(PageScreen):
    """Shows the newest search or, after [ and ], an older one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,h", "dismiss", "close", id="search.close"),
        Binding("n", "new", "new search", id="search.new"),
        Binding("x", "choose('drop')", "drop the trial", id="search.drop"),
        Binding("p", "choose('pin')", "pin the trial", id="search.pin"),
        Binding("s", "stop", "stop", id="search.stop"),
        Binding("r", "resume", "continue", id="search.resume"),
        Binding("e", "evaluation", "its evaluation", id="search.evaluation"),
        Binding("left_square_bracket", "turn(1)", "older", id="search.older"),
        Binding("right_square_bracket", "turn(-1)", "newer", id="search.newer"),
    ]

    def __init__(self) -> None:
        super().__init__("Search", lambda width: [])
        self._index = 0
        self._cache: tuple[object, Leaderboard | None] | None = None

    def compose_body(self) -> ComposeResult:
        yield Section("Search", Panel(id="search-banner"), lit=True, id="search-head")
        about = "Trials, best first. x drops a trial, p keeps it from being pruned."
        yield Section("Leaderboard", ListPanel(about=about, id="search-trials"), id="search-board", classes="fill")
        yield Section("Contract pass rate", Panel(id="search-rates"), id="search-chart")
        yield Section("Hyperparameters", Panel(id="search-values"), id="search-strips")

    @property
    def view(self) -> RunView | None:
        """The displayed search."""
        searches = self.app.snapshot.searches if self.app.snapshot else ()
        return searches[min(self._index, len(searches) - 1)] if searches else None

    def _board(self, view: RunView) -> Leaderboard | None:
        """Return the leaderboard, read again only if the search has written an event or the user has chosen something."""
        stamp = (view.id, view.updated, view.status, file_stamp(view.run.folder / boards.CHOICES))
        if self._cache is None or self._cache[0] != stamp:
            try:
                self._cache = (stamp, read_leaderboard(view.run.folder))
            except MlxtuneError as error:
                self._cache = (stamp, None)
                self.app.show_error(error)
        return self._cache[1]

    @property
    def _entry(self) -> Entry | None:
        """The trial under the cursor."""
        view = self.view
        board = self._board(view) if view else None
        cursor = self.query_one("#search-trials", ListPanel).cursor
        return board.entries[cursor] if board and cursor < len(board.entries) else None

    def redraw(self) -> None:
        """Draw the displayed search."""
        if not self.is_mounted or not self.query("#search-board"):  # the page is closing
            return
        view, snapshot = self.view, self.app.snapshot
        board = self._board(view) if view else None
        for name in ("#search-board", "#search-strips"):
            self.query_one(name).display = board is not None
        self.query_one("#search-chart").display = board is not None and self.app.size.height >= 34
        self._draw_keys()
        self.draw_notices()
        head, panel = self.query_one("#search-head", Section).head, self.query_one("#search-banner", Panel)
        if view is None or snapshot is None:
            panel.update(lambda width, _height: search_render.empty_page(self.app.can_start, width))
            return
        head.set(title=f"Search {view.name}", note=view.title)
        panel.update(lambda width, _height: search_render.banner(view, board, snapshot.now, width))
        if board is None:
            return
        shown, trials = board, self.query_one("#search-trials", ListPanel)
        table = replace(leaderboard_table(board, alive=view.alive), title="", note="")
        rows = cache(lambda width: draw.table_rows(table, width))
        trials.set(
            len(shown.entries), lambda index, width: rows(width)[1 + index],
            header=lambda width: rows(width)[0], on_move=lambda index: self._draw_trial(shown, index),
        )  # fmt: skip
        if self.focused is None:
            trials.focus()
        self._draw_trial(shown, trials.cursor)

    def _draw_trial(self, board: Leaderboard, index: int) -> None:
        number = board.entries[index].number
        self.query_one("#search-chart", Section).head.set(
            title=f"Contract pass rate of trial {number}", note="after each rung, in percent"
        )
        self.query_one("#search-rates", Panel).update(lambda width, height: search_render.rates(board, number, width, height))
        note = "change in pass rate over the range, 95% interval" if board.trends else ""
        self.query_one("#search-strips", Section).head.set(note=note)
        self.query_one("#search-values", Panel).update(lambda width, _height: search_render.positions(board, number, width))

    def _draw_keys(self) -> None:
        self.draw_keys([
            ("x", "drop", "choose('drop')"),
            ("p", "pin", "choose('pin')"),
            ("s", "stop", "stop"),
            ("r", "continue", "resume"),
            ("n", "new search", "new"),
            ("e", "evaluation", "evaluation"),
            ("[", "older", "turn(1)"),
            ("]", "newer", "turn(-1)"),
            ("esc", "close", "dismiss"),
        ])  # fmt: skip

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether the key of an action has an effect now."""
        view = self.view
        match action:
            case "choose" | "stop":
                return view is not None and view.alive
            case "resume":
                return view is not None and view.status in ("stopped", "crashed", "failed") and self.app.accelerator_free
            case "new":
                return self.app.can_start
            case "evaluation":
                return view is not None and view.status == "finished"
            case "turn":
                (by,) = parameters
                searches = self.app.snapshot.searches if self.app.snapshot else ()
                return isinstance(by, int) and 0 <= self._index + by < len(searches)
        return super().check_action(action, parameters)

    def refusal(self, action: str) -> Notice | None:
        in_use = self.app.in_use if action in ("new", "resume") else None
        return in_use or super().refusal(action)

    def action_turn(self, by: int) -> None:
        self._index += by
        self.redraw()

    def action_choose(self, choice: boards.Choice) -> None:
        """Drop or pin the trial under the cursor. The last choice takes effect."""
        view, entry = self.view, self._entry
        if view and entry:
            self.app.run_job(lambda: boards.choose(view.run.folder, choice, entry.number), lambda _: self.redraw(), group="search")

    def action_stop(self) -> None:
        if self.view:
            self.app.confirm_stop(self.view)

    def action_resume(self) -> None:
        if view := self.view:
            self.app.start_worker(lambda: control.resume(view.run), lambda _: self.redraw(), busy=f"Continuing {view.name}.")

    def action_new(self) -> None:
        self.dismiss()  # the room shows whether the search starts
        self.app.new_search()

    def action_evaluation(self) -> None:
        self.dismiss()
        self.app.action_room("evaluate")
