"""What Data and Review share: the source on the workbench and its news, undo and redo, another recipe, rows from elsewhere."""

from __future__ import annotations

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import plural
from mlxtune.tui import curate
from mlxtune.tui.names import seen_from
from mlxtune.tui.screens.room import Room
from mlxtune.tui.widgets.frame import sorry
from mlxtune.tui.widgets.source_states import broken, invite
from mlxtune.tui.work import Work
from mlxtune.tui.workbench import News, Workbench, workbench

MANY = 200  # rows beyond which undo and redo are left to a thread, as decisions on many rows are


class SourceRoom(Room):
    """A room about the rows of a source."""

    @property
    def bench(self) -> Workbench:
        return workbench(self.app)

    @property
    def work(self) -> Work | None:
        """The source on show, once it is open."""
        work = self.bench.work
        return work if work is not None and work.browse is not None else None

    def on_mount(self) -> None:
        self.bench.join(self)

    def on_unmount(self) -> None:
        self.bench.leave(self)

    def on_screen_suspend(self) -> None:
        if self.desk.current_mode not in ("data", "review"):
            self.bench.let_go()

    def on_news(self, _message: News) -> None:
        if self.is_current:
            self.show()
            self.refresh_bindings()

    def without_rows(self, work: Work | None, width: int) -> Content:
        """The room while there are no rows to show: why, and what to do."""
        if work is not None:
            return broken(work, self.desk.workspace, width)
        snapshot, view = self.desk.snapshot, self.desk.recipe
        error = seen_from(self.desk.workspace, view.error) if view else ""
        return invite(error, bool(snapshot and snapshot.recipes), width)

    def action_undo(self) -> None:
        self._turn_back("undo")

    def action_redo(self) -> None:
        self._turn_back("redo")

    def _turn_back(self, which: str) -> None:
        if (work := self.work) is None or self.desk.busy:
            return
        state = work.source.state
        newest = (state.done if which == "undo" else state.undone)[-1:]
        if newest and len(newest[0].changes) > MANY:
            self.desk.do(f"{plural(len(newest[0].changes), 'row')}: {which}.", lambda: curate.turned_back(work, which))
            return
        try:
            self.desk.reply(curate.turned_back(work, which))
        except MlxtuneError as error:
            self.desk.reply(sorry(error))

    def action_recipe(self) -> None:
        self.desk.choose_recipe(lambda: self.bench.open_file(None))

    def action_bring(self) -> None:
        curate.ask_to_import(self, self.bench)
