"""A source at work under the Data and Review rooms: opened, walked over, checked and filtered in threads, decided upon at once.

Threads change one attribute at a time and then call ``news``; the rooms draw what they find.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import App

from mlxtune.core.errors import DataError, InputError, MachineError, MlxtuneError, ModelError
from mlxtune.core.text import one_line
from mlxtune.data import filters, review
from mlxtune.data.decisions import Step
from mlxtune.data.review import Action, Review
from mlxtune.data.rows import Row
from mlxtune.data.source import PARTS
from mlxtune.recipe import Recipe
from mlxtune.tui.follow import stamp

if TYPE_CHECKING:  # they load numpy, which the first screen need not wait for
    from mlxtune.data.browse import Browse
    from mlxtune.evaluation.contract import Contract
    from mlxtune.evaluation.examine import Examination
    from mlxtune.planning.masks import Mask, Masks

_TELL = 0.1  # seconds between two words of a thread


@dataclass(frozen=True)
class Where:
    """The source that the rooms are about: a recipe's, or a file by itself."""

    path: Path
    format: str = "auto"
    map: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None
    file: Path | None = None  # of the recipe

    @property
    def rows(self) -> tuple[object, ...]:
        """What says which rows these are, whatever else the recipe says."""
        return self.path, self.format, self.map

    @property
    def name(self) -> str:
        """What the source is called, safe to show."""
        return one_line(self.path.name, 60)

    @property
    def request(self) -> dict[str, Any]:
        """What the process that checks is asked."""
        if self.file is not None:
            return {"recipe": str(self.file), "fetch": False}
        return {"source": str(self.path), "format": self.format, "map": dict(self.map), "fetch": False}


@dataclass
class Checking:
    """How far the check is: what it does and the share of it that is done; or why it came to nothing."""

    doing: str = ""
    share: float = 0.0
    done: bool = False
    error: MlxtuneError | None = None


@dataclass
class Shown:
    """The rows that are shown: what ``filter`` lets through, in ``order``. ``looked`` is how many it was asked about, until it is done."""

    filter: str = ""
    order: str = "row"
    rows: Sequence[int] = ()
    looked: int | None = None
    asked: int = 0  # counts what was asked for: an older thread ends when there is something newer
    trouble: str = ""


class Work:
    """One source, until another one or a new version of it takes its place."""

    def __init__(self, app: App[Any], where: Where, news: Callable[[], None], after: Work | None = None) -> None:
        """``news`` is called by any thread. ``after`` is the same source as it was: its filter, order and cursor are taken over."""
        self.where = where
        self.browse: Browse | None = None
        self.contract: Contract | None = None
        self.error: MlxtuneError | None = None  # the source cannot be read
        self.checking = Checking()
        self.shown = Shown()
        self.at = 0  # the record under the cursor
        if after is not None:
            self.shown = Shown(after.shown.filter, after.shown.order, trouble=after.shown.trouble)
            self.at = after.at
        self.closed = False
        self._app, self._news = app, news
        self._examination: Examination | None = None
        self._review: Review | None = None
        self._masks: Masks | None = None
        self._journal = stamp(review.journal_path(where.path))
        self.opened = self.stamps()
        self._run(self._open)
        self._run(self._check)

    def _run(self, work: Callable[[], None]) -> None:
        self._app.run_worker(work, thread=True, group="data")

    @property
    def source(self) -> Browse:
        """The rows. Raises ``DataError`` while they are not open."""
        if self.browse is None:
            raise DataError(f"{self.where.name} is not open.", mend="Wait until it is.")
        return self.browse

    # In threads

    def _open(self) -> None:
        from mlxtune.data.browse import Browse

        try:
            browse = Browse(self.where.path, self.where.format, dict(self.where.map))
            browse.hold(review.load(self.where.path))
        except MlxtuneError as error:
            self.error = error
            self._news()
            return
        self.browse = browse
        self.shown.rows = range(len(browse))
        self.at = min(self.at, max(len(browse) - 1, 0))
        self._news()
        if self.shown.filter or self.shown.order != "row":
            self.show(self.shown.filter, self.shown.order)
        told = time.monotonic()
        try:
            for _ in browse.learn(lambda: self.closed):
                if time.monotonic() - told > _TELL:
                    told = time.monotonic()
                    self._news()
        except DataError:  # the file is being written to: it is opened anew when it has settled
            return
        self._news()

    def _check(self) -> None:
        from mlxtune.evaluation.contract import Contract
        from mlxtune.evaluation.examine import Examination, scorer

        def progress(doing: str, share: float) -> None:
            self.checking.doing, self.checking.share = doing, share
            self._news()

        try:
            recipe = self.where.recipe
            if recipe is not None and recipe.contract:
                self.contract = Contract.of(recipe)
            judge = scorer(recipe, {})
            self._examination = Examination(self.where.request)
            if self.closed:
                self._examination.stop()
            found = self._examination.follow(progress)
        except MlxtuneError as error:
            self.checking.error = error
            self._news()
            return
        while self.browse is None and self.error is None and not self.closed:
            time.sleep(0.02)  # the check was quicker than the opening
        if self.browse is not None and found is not None:
            self.browse.scorer, self.browse.checked = judge, found
            self.checking.done = True
            if "finding:" in self.shown.filter or "tokens" in self.shown.filter or self.shown.order != "row":
                self.show(self.shown.filter, self.shown.order)
        self._news()

    def _match(self, holds: filters.Filter | None, order: str, asked: int) -> None:
        browse = self.source

        def stale() -> bool:
            return self.closed or self.shown.asked != asked

        if holds is None:
            rows: Sequence[int] = range(len(browse))
        else:
            found: list[int] = []
            told = 0.0
            for looked, some in browse.matching(holds, stale):
                found += some
                if stale():
                    return
                if time.monotonic() - told > _TELL and (found or looked < len(browse)):
                    told = time.monotonic()
                    self.shown.rows, self.shown.looked = found, looked
                    self._news()
            rows = found
        rows = browse.sorted(rows, order)
        if not stale():
            self.shown.rows, self.shown.looked = rows, None
            self._news()

    # What the rooms ask for

    def show(self, filter: str, order: str) -> None:
        """Show what ``filter`` lets through, in ``order``. A filter that cannot be read is trouble, and the rows stay as they are."""
        self.shown.filter, self.shown.order, self.shown.trouble = filter, order, ""
        try:
            holds = filters.parse(filter) if filter.strip() else None
        except InputError as error:
            self.shown.trouble = one_line(f"{error.message} {error.mend}")
            return
        if self.browse is None:
            return
        self.shown.asked += 1
        self.shown.looked = 0
        asked = self.shown.asked
        self._run(lambda: self._match(holds, order, asked))

    def masks_of(self, rows: Iterable[Row]) -> dict[str, Mask | MlxtuneError]:
        """Which tokens of ``rows`` train, by their hashes, or why that is not known; an error of the model goes by an empty one."""
        from mlxtune.planning.masks import Masks

        found: dict[str, Mask | MlxtuneError] = {}
        if self.where.recipe is None or self.closed:
            return found
        if self._masks is None:
            self._masks = Masks(self.where.recipe)
        for row in rows:
            try:
                found[row.hash] = self._masks.ask(row)
            except (ModelError, MachineError) as error:
                return {**found, row.hash: error, "": error}
            except MlxtuneError as error:
                found[row.hash] = error
        return found

    def check_again(self) -> None:
        """Look at every row again."""
        if self._examination is not None:
            self._examination.stop()
        self.checking = Checking()
        self._run(self._check)

    def index(self) -> int:
        """Where the row under the cursor stands among those that are shown; the first, where it is not among them."""
        rows = self.shown.rows
        if isinstance(rows, range):
            return min(self.at, max(len(rows) - 1, 0))
        try:
            return (rows if isinstance(rows, list) else list(rows)).index(self.at)
        except ValueError:
            return 0

    def stamps(self) -> tuple[object, ...]:
        """What changes when the source does: the file, or those of a folder."""
        path = self.where.path
        if not path.is_dir():
            return (stamp(path),)
        return tuple(stamp(path / f"{part}.jsonl") for part in PARTS)

    def look(self) -> None:
        """Take over what another window has decided."""
        mark = stamp(review.journal_path(self.where.path))
        if mark != self._journal and self._review is None and self.browse is not None:
            self._journal = mark
            try:
                self.browse.hold(review.load(self.where.path))
            except MlxtuneError as error:
                self.error = error
            self._news()

    def decide(self, action: Action, rows: Iterable[int], **more: Any) -> Step | None:
        """Take one decision on ``rows``. Raises what the review raises, and ``DataError`` for a row that is none or not known yet."""
        browse = self.source
        chosen = [browse.keyed(at) for at in rows]
        step = self._window().decide(action, chosen, **more)
        self._hold(step)
        return step

    def undo(self) -> Step | None:
        """Take the newest decision back; ``None`` when there is none."""
        if not self.source.state.done:
            return None
        step = self._window().undo()
        self._hold(step)
        return step

    def redo(self) -> Step | None:
        """Let it hold again; ``None`` when there is nothing to redo."""
        if not self.source.state.undone:
            return None
        step = self._window().redo()
        self._hold(step)
        return step

    def _window(self) -> Review:
        """The deciding end of the journal: this window's, from the first decision until it lets go."""
        if self._review is None:
            self._review = Review(self.where.path)
            if self._review.state != self.source.state:
                self.source.hold(self._review.state)
        return self._review

    def _hold(self, step: Step | None) -> None:
        if step is not None and self._review is not None:
            self.source.hold(self._review.state, step)
        self._news()

    def let_go(self) -> None:
        """Let other windows decide."""
        if self._review is not None:
            self._review.close()
            self._review = None
            self._journal = stamp(review.journal_path(self.where.path))

    def close(self) -> None:
        """End every thread, and let the files go."""
        self.closed = True
        self.let_go()
        if self._examination is not None:
            self._examination.stop()
        if self._masks is not None:
            self._masks.close()
