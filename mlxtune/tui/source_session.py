"""A source that is open in the Data and Review rooms. Threads read, check and filter it; decisions run in the event loop.

A thread changes one attribute at a time and then calls ``_notify``; the rooms draw the current values. Only the event loop moves the cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import DataError, InputError, MachineError, MlxtuneError, ModelError
from mlxtune.core.files import file_stamp
from mlxtune.core.text import one_line, plural
from mlxtune.data import filters, review
from mlxtune.data.review import Action, ReviewSession, ReviewStep
from mlxtune.data.rows import Row, RowError
from mlxtune.data.source_files import PARTS, generated_path
from mlxtune.recipe import Recipe
from mlxtune.tui.notices import Notice

if TYPE_CHECKING:  # most of these load numpy, which the first screen does not need
    from mlxtune.core.child_process import StoppableCall
    from mlxtune.data.browser import SourceBrowser
    from mlxtune.data.checks.report import CheckResult
    from mlxtune.data.transforms.pipeline import Pipeline
    from mlxtune.evaluation.check_process import CheckRequest
    from mlxtune.evaluation.contract import Contract
    from mlxtune.planning.masks import MaskProcess, TrainingMask
    from mlxtune.tui.app import MlxtuneApp

_MOST_LOGGED = 8  # rows of a decision in the log of commands
_OPTIONS = {  # of the command line, for the actions that have one without a value
    "accept": "--accept", "reject": "--reject", "skip": "--skip", "swap": "--swap", "tie": "--tie", "bad": "--both-bad",
}  # fmt: skip
_NOTIFY_INTERVAL = 0.1  # seconds between two notifications from a thread


@dataclass(frozen=True)
class SourceRef:
    """The displayed source: a recipe's source, or a file without a recipe."""

    path: Path
    format: str = "auto"
    map: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None
    recipe_path: Path | None = None

    @property
    def row_key(self) -> tuple[object, ...]:
        """The fields that determine the rows, regardless of the rest of the recipe."""
        return self.path, self.format, self.map

    @property
    def name(self) -> str:
        return one_line(self.path.name, 60)

    @property
    def check_request(self) -> CheckRequest:
        if self.recipe_path is not None:
            return {"recipe": str(self.recipe_path), "fetch": False}
        return {"source": str(self.path), "format": self.format, "map": dict(self.map), "fetch": False}


ORDERS = {"row": "", "findings": "worst first", "longest": "longest first", "shortest": "shortest first"}  # with their descriptions


@dataclass
class CheckProgress:
    """The current step of the checks and the completed fraction, or why the checks failed."""

    step: str = ""
    fraction: float = 0.0
    finished: bool = False
    error: MlxtuneError | None = None
    base: bool = False  # whether the recipe's base is asked, which can take an hour


@dataclass
class RowSelection:
    """The rows that match ``filter``, in ``order``. ``scanned`` is the number of rows tested, or ``None`` if all are. ``decided`` are
    the rows that had a decision when the filter was applied.
    """

    filter: str = ""
    order: str = "row"
    rows: Sequence[int] = ()
    scanned: int | None = None
    decided: frozenset[int] = frozenset()
    generation: int = 0  # incremented per request, so that the thread of an older one ends
    error: str = ""


class SourceSession:
    """One version of a source. Another source, or a change on disk, starts a new session."""

    def __init__(self, app: MlxtuneApp, ref: SourceRef, previous: SourceSession | None, annotator: str) -> None:
        """Open ``ref``. The filter, order and cursor come from ``previous``.

        If there is an ``annotator``, decisions are theirs, and only theirs are shown.
        """
        self.ref = ref
        self.annotator = annotator
        self.browser: SourceBrowser | None = None
        self.contract: Contract | None = None
        self.error: MlxtuneError | None = None  # set if the source cannot be read
        self.unmapped: RowError | None = None  # set if all rows are invalid because their columns are unknown
        self.check = CheckProgress()
        self.selection = RowSelection()
        self.row_index = 0  # the row under the cursor
        self.row_in_review = -1  # the row that Review shows, or that the user opened for it
        self._anchor = 0  # the row to return to if the filter being applied matches it
        if previous is not None:
            self.selection = replace(previous.selection, rows=(), scanned=None)
            self.move_to(previous.row_index)
            self.row_in_review = previous.row_in_review
        self.closed = False
        self._app, self._notified_at = app, 0.0
        self._check_process: StoppableCall[CheckResult] | None = None
        self.base_is_missing = False  # for the last check, which then counted no tokens
        self._review: ReviewSession | None = None
        self._masks: MaskProcess | None = None
        self._journal_stamp = file_stamp(review.journal_path(ref.path))
        self.opened_stamps = self.file_stamps()
        self._run(self._open, partial(self._fail, self))
        self._run(self._check, partial(self._fail, self.check))

    def _run(self, job: Callable[[], None], on_error: Callable[[MlxtuneError], None] | None = None) -> None:
        self._app.jobs.run(job, on_error=on_error, group="source", exclusive=False)

    def _notify(self) -> None:
        """Redraw the room if it shows the session. Safe to call from any thread."""
        self._app.call_later(self._app.sessions.redraw)

    def _fail(self, what: SourceSession | CheckProgress, error: MlxtuneError) -> None:
        what.error = error
        self._notify()

    @property
    def source(self) -> SourceBrowser:
        """The opened source. Raise ``DataError`` if it is not open yet."""
        if self.browser is None:
            raise DataError(f"{self.ref.name} is not open yet.", hint="Try again in a moment.")
        return self.browser

    @property
    def has_rows(self) -> bool:
        """Whether the source is open and has rows that can be used."""
        return self.browser is not None and len(self.browser) > 0 and self.unmapped is None

    # In threads

    def _may_notify(self) -> bool:
        if (now := time.monotonic()) - self._notified_at <= _NOTIFY_INTERVAL:
            return False
        self._notified_at = now
        return True

    def _open(self) -> None:
        from mlxtune.data.browser import SourceBrowser

        browser = SourceBrowser(self.ref.path, self.ref.format, dict(self.ref.map))
        browser.annotator = self.annotator
        browser.apply_review(review.load(self.ref.path))
        self.browser = browser
        self.selection.rows = range(len(browser))
        self.row_index = min(self.row_index, max(len(browser) - 1, 0))
        self._notify()
        if self.selection.filter or self.selection.order != "row":
            self.select(self.selection.filter, self.selection.order)
        try:
            for _ in browser.scan(lambda: self.closed):
                if self._may_notify():
                    self._notify()
            self.unmapped = self._find_unmapped(browser)
        except DataError:  # the file is being written; a new session opens once it stops changing
            return
        self._notify()
        if not self.closed and (orphans := browser.count_orphans()):
            text = f"{plural(orphans, 'decision')} of the review {'is' if orphans == 1 else 'are'} about rows that this source does not have."
            hint = "The rows have changed, or are read with other columns; the decisions are kept."
            self._app.call_later(self._app.notices.show, Notice("warning", text, hint))

    def _find_unmapped(self, browser: SourceBrowser) -> RowError | None:
        """Return the error of the first row if every row is invalid and the first one needs a column map."""
        from mlxtune.data.column_map import first_records, needs_mapping

        if not len(browser) or browser.bad_count < len(browser):
            return None
        first = browser.records.record(0)
        return first if isinstance(first, RowError) and needs_mapping(first_records(self.ref.path).records[0][1]) else None

    def _check(self, base: bool = False) -> None:
        from mlxtune.evaluation.check_process import contract_scorer, start_check
        from mlxtune.evaluation.contract import Contract

        def progress(step: str, fraction: float) -> None:
            self.check.step, self.check.fraction = step, fraction
            self._notify()

        recipe = self.ref.recipe
        if recipe is not None and recipe.has_contract:
            self.contract = Contract.from_recipe(recipe)
        self.base_is_missing = not self._has_base()
        scorer = contract_scorer(recipe, {})
        self._check_process = start_check({**self.ref.check_request, "base": True} if base else self.ref.check_request)
        if self.closed:
            self._check_process.stop()
        result = self._check_process.result(progress)
        while self.browser is None and self.error is None and not self.closed:
            time.sleep(0.02)  # the checks finished before the source was open
        if self.browser is not None and result is not None:
            self.browser.scorer, self.browser.check_result = scorer, result
            self.check.finished = True
            if filters.fields(self.selection.filter) & filters.CHECKED or self.selection.order != "row":
                self.select(self.selection.filter, self.selection.order)
        self._notify()

    def _scan(self, predicate: filters.Filter | None, order: str, generation: int) -> None:
        browser = self.source

        def stale() -> bool:
            return self.closed or self.selection.generation != generation

        rows: Sequence[int] = range(len(browser))
        if predicate is not None:
            matches: list[int] = []
            for scanned, batch in browser.matching(predicate, stale):
                matches += batch
                if stale():
                    return
                if self._may_notify():
                    self._app.call_between_keys(self._show_rows, matches, scanned, generation)
            rows = matches
        self._app.call_between_keys(self._show_rows, browser.sorted(rows, order), None, generation)

    # For the rooms

    def _show_rows(self, rows: Sequence[int], scanned: int | None, generation: int) -> None:
        """Show the rows found so far, and redraw at once: a key must act on the row under the cursor that was on screen when it was typed."""
        if self.closed or self.selection.generation != generation:
            return
        if scanned is None and self._anchor in rows:
            self.row_index = self._anchor
        self.selection.rows, self.selection.scanned = rows, scanned
        self._app.sessions.redraw()

    def move_to(self, index: int) -> None:
        self.row_index = self._anchor = index

    def select(self, filter: str, order: str) -> None:
        """Show the rows that match ``filter``, in ``order``. An invalid filter sets ``selection.error``, and shows no rows."""
        self.selection.filter, self.selection.order, self.selection.error = filter, order, ""
        self.selection.generation += 1
        try:
            predicate = filters.parse(filter) if filter.strip() else None
        except InputError as error:
            self.selection.error = one_line(f"{error.message} {error.hint}")
            self.selection.rows, self.selection.scanned = (), None
            return
        if self.browser is None:
            return
        if self.selection.scanned is None:
            self._anchor = self.row_index
        self.selection.scanned, self.selection.decided = 0, frozenset(self.browser.decisions)
        generation = self.selection.generation
        self._run(lambda: self._scan(predicate, order, generation))

    def matching_rows(self) -> list[int]:
        """Return the displayed rows that still match the filter, ascending. Rows that were decided on meanwhile may not."""
        browser, selection = self.source, self.selection
        rows = sorted(map(int, selection.rows))
        if not selection.filter.strip() or not rows:
            return rows
        matches, decided = filters.parse(selection.filter), selection.decided | browser.decisions.keys()
        return [index for index in rows if index not in decided or browser.is_match(index, matches)]

    def token_masks(self, rows: Iterable[Row]) -> dict[str, TrainingMask | MlxtuneError]:
        """Return, keyed by row hash, the mask of trained tokens or the error. An error in the model itself has the key ``""``.

        There are none while the base is missing.
        """
        from mlxtune.planning.masks import MaskProcess

        masks: dict[str, TrainingMask | MlxtuneError] = {}
        if self.ref.recipe is None or self.closed:
            return masks
        if not self._has_base():
            self.base_is_missing = True
            return masks
        if self._masks is None:
            self._masks = MaskProcess(self.ref.recipe)
        for row in rows:
            try:
                masks[row.hash] = self._masks.mask(row)
            except (ModelError, MachineError) as error:
                return {**masks, row.hash: error, "": error}
            except MlxtuneError as error:
                masks[row.hash] = error
        return masks

    def _has_base(self) -> bool:
        from mlxtune.models.resolve import is_local

        return self.ref.recipe is None or is_local(self.ref.recipe.model.base, relative_to=self.ref.recipe.folder)

    @property
    def download_hint(self) -> str:
        """A sentence on how to get the base that the last check lacked, after a space, or ``""``."""
        return " b in Plan downloads it." if self.base_is_missing else ""

    def count_missing_tokens(self) -> None:
        """Restart the checks if the last one had no tokenizer, and the base has been downloaded since."""
        if self.check.finished and self.base_is_missing and self._has_base():
            self.check_again()

    def check_again(self, base: bool = False) -> None:
        if self._check_process is not None:
            self._check_process.stop()
        self.check = CheckProgress(base=base)
        self._run(partial(self._check, base), partial(self._fail, self.check))

    def cursor_position(self) -> int:
        """Return the position of the current row among the selected rows, or 0 if it is not among them."""
        try:
            return self.selection.rows.index(self.row_index)
        except ValueError:
            return 0

    def file_stamps(self) -> tuple[object, ...]:
        path = self.ref.path
        files = [path / f"{part}.jsonl" for part in PARTS] if path.is_dir() else [path]
        return tuple(map(file_stamp, (*files, generated_path(path))))

    def reload_decisions(self) -> None:
        current = file_stamp(review.journal_path(self.ref.path))
        if current != self._journal_stamp and self._review is None and self.browser is not None:
            self._journal_stamp = current
            try:
                self.browser.apply_review(review.load(self.ref.path))
            except MlxtuneError as error:
                self.error = error
            self._notify()

    def decide(self, action: Action, rows: Iterable[int], *, fixes: str = "", **more: Any) -> ReviewStep | None:
        """Record one decision on ``rows``, as the fix of a finding of the check ``fixes`` if it is given.

        Raise any review error, and ``DataError`` for a row that is invalid or not read yet.
        """
        rows = list(rows)
        keyed = [self.source.keyed_row(index) for index in rows]
        for index, (_, row) in zip(rows, keyed, strict=True):
            if isinstance(row, RowError) and action not in ("reject", "edit") and not self.source.is_row(index):
                raise row
        if fixes:
            more["reason"] = f"data check: {fixes}"
        step = self._apply(self._open_review().decide(action, keyed, **more))
        if fixes:
            self._log("check", "--fix", "--also", fixes)
        else:
            names = [str(index + 1) if isinstance(row, RowError) else row.id for index, (_, row) in zip(rows, keyed, strict=True)]
            self._log_decision(action, names, more)
        return step

    def apply(self, pipeline: Pipeline, rows: Sequence[int]) -> ReviewStep | None:
        """Record what ``pipeline`` changes in ``rows`` (ascending) as one decision. Raise review errors, and ``InputError``."""
        from mlxtune.data.transforms.preview import recorded_edits

        found = [edit for edit in pipeline.edits(rows, self.source.lazy_row) if not edit.error]
        edits = recorded_edits(found, self.source.key, "Use mlxtune data apply with --out.")
        step = self.decide("apply", [edit.index for edit in found], edits=edits, reason=pipeline.text)
        self._log("apply", pipeline.text)
        return step

    def mute(self, check: str, reason: str) -> ReviewStep | None:
        step = self._apply(self._open_review().mute(check, reason))
        self._log("check", "--mute", check, "--reason", reason)
        return step

    def undo_or_redo(self, action: str) -> ReviewStep | None:
        """Undo the most recent decision, or redo the last undone one. Return ``None`` if there is none."""
        if not (self.source.state.steps if action == "undo" else self.source.state.undone_steps):
            return None
        review = self._open_review()
        step = self._apply(review.undo() if action == "undo" else review.redo())
        self._log("review", f"--{action}")
        return step

    def _log(self, verb: str, *words: str) -> None:
        ref = self.ref
        mapping = [] if ref.recipe_path or not ref.map else ["--map", ",".join(f"{key}={column}" for key, column in ref.map)]
        self._app.commands.add("data", verb, ref.recipe_path or ref.path, *words, *mapping)

    def _log_decision(self, action: Action, rows: Sequence[str], more: Mapping[str, Any]) -> None:
        """Log a decision that has a command. Long lists of rows are cut, and the content of an edit is a file of the user's."""
        options = [word for tag in more.get("add", ()) for word in ("--tag", tag)]
        options += [word for tag in more.get("remove", ()) for word in ("--untag", tag)]
        options += {"edit": ["--edit", "FILE"], "note": ["--note", str(more.get("note", ""))]}.get(action, [])
        options += [_OPTIONS[action]] if action in _OPTIONS else []
        if options and rows:
            self._log("review", *rows[:_MOST_LOGGED], *(["…"] if len(rows) > _MOST_LOGGED else []), *options)

    def _open_review(self) -> ReviewSession:
        """Return the open review, which holds the journal's lock from the first decision until :meth:`release_lock`."""
        if self._review is None:
            self._review = ReviewSession(self.ref.path, who=self.annotator)
            if self._review.state != self.source.state:
                self.source.apply_review(self._review.state)
        elif self._review.synchronize():
            self.source.apply_review(self._review.state)
        return self._review

    def _apply(self, step: ReviewStep | None) -> ReviewStep | None:
        if step is not None and self._review is not None:
            blocked = self._blocked
            self.source.apply_review(self._review.state, step)
            if blocked and not self._blocked:
                self._app.call_later(self.check_again)  # the rows can be split now
        self._notify()
        return step

    @property
    def _blocked(self) -> int:
        verdict = self.source.verdict
        return verdict.counts.blocked if verdict else 0

    def set_annotator(self, name: str) -> None:
        """Record decisions as ``name`` from now on, and show only that annotator's. Without a name, everyone's newest are shown."""
        self.release_lock()
        self.annotator = name
        if self.browser is not None:
            self.browser.annotator = name
            self.select(self.selection.filter, self.selection.order)
        self._notify()

    def release_lock(self) -> None:
        if self._review is not None:
            with self._app.notices.showing_errors():  # decisions that another program removed from the journal may not be restored
                self._review.close()
            self._review = None
            self._journal_stamp = file_stamp(review.journal_path(self.ref.path))

    def close(self) -> None:
        self.closed = True
        self.release_lock()
        if self._check_process is not None:
            self._check_process.stop()
        if self._masks is not None:
            self._masks.close()
