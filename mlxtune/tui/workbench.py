"""Which source the Data and Review rooms are about, and what a decision on its rows is answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from textual.app import App
from textual.message import Message
from textual.screen import Screen

from mlxtune.core.text import plural
from mlxtune.data.decisions import Step
from mlxtune.tui.snapshot import RecipeView
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.work import Where, Work

if TYPE_CHECKING:
    from pathlib import Path

_BENCHES: WeakKeyDictionary[App[Any], Workbench] = WeakKeyDictionary()

DONE = {  # what was done, its sign and its colour
    "accept": ("accepted", "✓", "$success"),
    "reject": ("rejected", "✗", "$error"),
    "skip": ("put off", "○", "$muted"),
    "tie": ("called a tie", "=", "$muted"),
    "bad": ("called bad on both sides", "✗", "$error"),
    "swap": ("turned round and accepted", "✓", "$success"),
    "edit": ("edited", "~", "$primary"),
    "tag": ("tagged", "✓", "$success"),
    "note": ("noted", "✓", "$success"),
}


class News(Message):
    """There is something new to know about the source."""


class Workbench:
    """One for an app: the two rooms share its source, its filter and its cursor."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._file: Where | None = None
        self._rooms: list[Screen[Any]] = []
        self._seen: object = None
        self.work: Work | None = None

    def join(self, room: Screen[Any]) -> None:
        """Tell ``room`` the news from now on."""
        self._rooms.append(room)

    def leave(self, room: Screen[Any]) -> None:
        """Tell it none any more; when no room is left, all work ends."""
        if room in self._rooms:
            self._rooms.remove(room)
        if not self._rooms and self.work is not None:
            self.work.close()
            self.work = None

    def let_go(self) -> None:
        """Let other windows decide on the rows."""
        if self.work is not None:
            self.work.let_go()

    def news(self) -> None:
        """Tell the rooms; any thread may."""
        for room in self._rooms:
            room.post_message(News())

    def open_file(self, path: Path | None) -> None:
        """Be about a file by itself; about the recipe in view when there is none."""
        self._file = Where(path) if path else None

    def turn_to(self, view: RecipeView | None) -> Work | None:
        """The work on the source of ``view``, or on the file that was opened. A source that has changed and settled is opened anew."""
        recipe = view.recipe if view else None
        where = self._file
        if where is None and view is not None and recipe is not None:
            where = Where(recipe.source, recipe.data.format, tuple(recipe.data.map.items()), recipe, view.path)
        old = self.work
        if where is None or old is None or old.where != where:
            if old is not None:
                old.close()
            same = old if old and where and old.where.rows == where.rows else None
            self.work = Work(self._app, where, self.news, after=same) if where else None
            return self.work
        if (now := old.stamps()) != old.opened and now == self._seen:
            old.close()
            self.work = Work(self._app, where, self.news, after=old)
        self._seen = now
        self.work.look() if self.work else None
        return self.work


def workbench(app: App[Any]) -> Workbench:
    """The workbench of ``app``."""
    if app not in _BENCHES:
        _BENCHES[app] = Workbench(app)
    return _BENCHES[app]


def told(step: Step | None, rows: list[int], word: str = "") -> Answer:
    """What became of a decision; ``word`` is what was done to it, where that is not the decision itself."""
    if step is None:
        return Answer("·", "$muted", "Nothing changed.")
    done, mark, token = DONE[step.action]
    which = f"Row {rows[0] + 1:,}" if len(rows) == 1 else plural(len(step.changes), "row")
    if word:
        return Answer("✓", "$success", f"{which}: {word}.")
    return Answer(mark, token, f"{which} {done}.", undo=Verb("u", "undo", "undo", "take it back"))
