"""The index of a workspace: its recipes, runs, evaluations, adapters, and verdicts.

A :class:`WorkspaceIndex` reads the files once, and later only those whose modification times have changed. Every string in a
:class:`Snapshot` that came from a dataset, a model or a file went through ``safe_text``, so it can be shown as is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.files import display_path, file_stamp
from mlxtune.core.journal import Tail
from mlxtune.core.text import one_line
from mlxtune.data import check_cache, samples
from mlxtune.data.review import ReviewState, apply_events, journal_path
from mlxtune.data.source_files import exists
from mlxtune.planning.machine import Memory, PowerState, memory, power
from mlxtune.recipe import Recipe, load
from mlxtune.runs import registry
from mlxtune.runs.events import Event
from mlxtune.runs.registry import ALIVE, Run, RunStatus
from mlxtune.runs.state import RunState
from mlxtune.workspace.follower import Follower

if TYPE_CHECKING:
    from mlxtune.evaluation.blind.blind_session import BlindStatus
    from mlxtune.evaluation.history import Evaluation

MACHINE_SECONDS = 2.0  # between two readings of memory and power
SOURCE_SECONDS = 2.0  # between two reads of a source


@dataclass(frozen=True, eq=False)  # the view of an unchanged run is the same object in the next snapshot
class RunView:
    """A run as the rooms show it. ``process_output`` has the last lines of a failed process.

    Once the run has ended, it has only its last step, no sample answers, and no log: :func:`with_history` reads them again.
    """

    run: Run
    status: RunStatus
    state: RunState
    log: tuple[Event, ...] = ()  # the events, without those that only show progress
    rows: tuple[int, int, int] | None = None  # train, validation, held out
    process_output: tuple[str, ...] = ()
    created: float = 0.0

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def title(self) -> str:
        """The folder's name, safe to show."""
        return one_line(self.run.id)

    @property
    def name(self) -> str:
        """The recipe's name, which is the end of the folder's name."""
        return self.state.name or one_line(self.id.split("-", 2)[-1])

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def updated(self) -> float:
        """The time of the run's last event, in seconds since the epoch."""
        return self.state.updated or self.created

    @property
    def nan_step(self) -> int | None:
        """The last step if its loss is not a number."""
        steps = self.state.steps
        return steps[-1].step if steps and not math.isfinite(steps[-1].loss) else None

    def time_left(self, now: float) -> float | None:
        """Return the estimated seconds until a live run or its current arm ends, counting down between steps, if known."""
        state = self.state
        answering = state.answering.remaining_seconds(state.updated) if state.answering else None
        left = state.remaining_seconds if state.steps else answering
        if left is None or not self.alive:
            return None
        if state.steps:
            left -= max(0.0, now - state.steps[-1].t)
        return left if left >= 1 else None  # it takes longer than estimated

    @property
    def checkpoint(self) -> int | None:
        return self.state.checkpoints[-1] if self.state.checkpoints else None

    @property
    def can_resume(self) -> bool:
        """Whether the run ended early with a checkpoint, and not because of an error that would occur again."""
        machine_error = self.status == "failed" and self.state.code == MachineError.exit_code
        return (self.status in ("stopped", "crashed") or machine_error) and self.checkpoint is not None


@lru_cache(maxsize=4)
def with_history(view: RunView) -> RunView:
    """Return ``view`` with all its steps, sample answers, and events, which are read from its log if it has ended."""
    if view.alive:
        return view
    follower = Follower(view.run)
    follower.read()
    if follower.state.updated != view.state.updated:  # the log was removed or has changed; the next snapshot shows that
        return view
    return replace(view, state=follower.state, log=tuple(follower.log))


@dataclass(frozen=True)
class RecipeView:
    """A file in ``recipes/``: its content, or why it cannot be read."""

    path: Path
    title: str
    recipe: Recipe | None
    source: str = ""
    source_exists: bool = False
    last_check: check_cache.CheckOutcome | None = None  # of the source's rows
    reviewed_rows: int = 0  # valid rows that a review has accepted or rejected
    review_entries: int = 0  # in the journal of the review
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Everything that the rooms draw, as of the time ``now``. Runs of each kind are newest first."""

    now: float
    workspace: Path
    recipes: tuple[RecipeView, ...] = ()
    runs: tuple[RunView, ...] = ()
    evals: tuple[RunView, ...] = ()
    searches: tuple[RunView, ...] = ()
    generations: tuple[RunView, ...] = ()
    exports: tuple[RunView, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()  # all that have a report, newest first
    verdicts: tuple[Evaluation, ...] = ()  # the evaluations that count, newest first: without those on a part of another one's rows
    memory: Memory | None = None
    power: PowerState = field(default_factory=PowerState)
    adapter_names: Mapping[str, str] = field(default_factory=dict)  # of renamed adapters, by run ID
    removed_runs: frozenset[str] = frozenset()  # the IDs of runs whose adapters were removed
    blind_status: BlindStatus | None = None  # of the most recent blind session of :attr:`newest_comparison`

    @property
    def best(self) -> Evaluation | None:
        """The best adapter that is better than its rival: preferably one without a caveat, then by contract rate."""
        better = [one for one in self.verdicts if one.outcome == "better" and one.run_id not in self.removed_runs]
        return max(better, key=lambda verdict: (not verdict.caveat, verdict.changes[-1][1].share), default=None)

    @property
    def live(self) -> RunView | None:
        """The active run of any kind, which holds the accelerator."""
        views = (*self.searches, *self.runs, *self.evals, *self.generations, *self.exports)
        return next((view for view in views if view.alive), None)

    @property
    def verdict(self) -> Evaluation | None:
        """The verdict of the newest report."""
        return self.verdicts[0] if self.verdicts else None

    @property
    def newest_outcome(self) -> Evaluation | None:
        """The newest verdict on an adapter. A report without an adapter has none."""
        return next((verdict for verdict in self.verdicts if verdict.outcome), None)

    @property
    def newest_comparison(self) -> Evaluation | None:
        """The verdict of the newest report on two or more arms."""
        return next((verdict for verdict in self.verdicts if verdict.changes), None)

    def verdict_on(self, run_id: str) -> Evaluation | None:
        return next((verdict for verdict in self.verdicts if verdict.outcome and verdict.run_id == run_id), None)

    @property
    def startable(self) -> tuple[RecipeView, ...]:
        """The recipes that can start now; one with a parent adapter needs an earlier run. If none can start, all recipes."""
        ready = (view for view in self.recipes if self.runs or view.recipe is None or not view.recipe.adapter.parent)
        return tuple(ready) or self.recipes

    def ended_since(self, time: float) -> list[RunView]:
        """Return the runs of any kind that have ended since ``time`` (seconds since the epoch), newest first."""
        views = (*self.runs, *self.evals, *self.searches, *self.generations, *self.exports)
        return sorted((view for view in views if not view.alive and view.updated > time), key=lambda view: -view.updated)

    def find_run(self, id: str | None) -> RunView | None:
        return next((view for view in self.runs if view.id == id), None)


class WorkspaceIndex:
    """Reads a workspace repeatedly, and only its changes. Only one thread at a time may use it."""

    def __init__(self, workspace: Path, clock: Callable[[], float] = time.time) -> None:
        self.workspace = workspace
        self._clock = clock
        self._followers: dict[Path, Follower] = {}
        self._views: dict[Path, RunView] = {}
        self._recipes: dict[Path, tuple[object, RecipeView]] = {}
        self._sources: dict[tuple[object, ...], _SourceWatch] = {}
        self._evaluations: list[Evaluation] = []  # all that have a report, newest first
        self._verdicts: tuple[Evaluation, ...] = ()
        self._blind: tuple[object, BlindStatus | None] = (None, None)
        self._library: tuple[object, dict[str, str], frozenset[str]] = ((None, None), {}, frozenset())
        self._machine_read_at = float("-inf")
        self._memory: Memory | None = None
        self._power = PowerState()

    def read(self) -> Snapshot:
        """Return the current state of the workspace. Folders that disappear during the read are omitted."""
        now = self._clock()
        kinds = ("train", "eval", "search", "generate", "export")
        runs, evals, searches, generations, exports = (self._read_runs(kind, now) for kind in kinds)
        folders = {view.run.folder for view in (*runs, *evals, *searches, *generations, *exports)}
        self._followers = {folder: follower for folder, follower in self._followers.items() if folder in folders}
        self._views = {folder: view for folder, view in self._views.items() if folder in folders}
        self._read_verdicts()
        self._read_machine(now)
        self._read_library()
        return Snapshot(
            now=now, workspace=self.workspace, recipes=self._read_recipes(now), runs=runs, evals=evals, searches=searches,
            generations=generations, exports=exports, evaluations=tuple(self._evaluations), verdicts=self._verdicts,
            memory=self._memory, power=self._power, adapter_names=self._library[1], removed_runs=self._library[2],
            blind_status=self._read_blind_status(),
        )  # fmt: skip

    def _read_runs(self, kind: str, now: float) -> tuple[RunView, ...]:
        views = []
        with suppress(OSError):  # a folder was removed after it was listed
            for run in registry.list_runs(self.workspace, kind):
                with suppress(OSError):
                    views.append(self._read_run(run, now))
        return tuple(views)

    def _read_run(self, run: Run, now: float) -> RunView:
        """Return the run's view, which is the same object as before if nothing has changed."""
        follower = self._followers.setdefault(run.folder, Follower(run))
        follower.read()
        status = run.status(follower.state, now, follower.read)
        if status not in ALIVE:
            follower.drop_history()
        output = follower.process_output() if status in ("crashed", "failed") else ()
        old = self._views.get(run.folder)
        if old and old.state is follower.state and (old.status, old.process_output) == (status, output):
            return old
        view = RunView(run, status, follower.state, tuple(follower.log), follower.rows, output, run.folder.stat().st_ctime)
        self._views[run.folder] = view
        return view

    def _read_recipes(self, now: float) -> tuple[RecipeView, ...]:
        try:
            files = (self.workspace / "recipes").glob("*.toml")
            paths = sorted(files, key=lambda path: (path.name != samples.RECIPE.name, path))  # the main sample recipe comes first
        except OSError:
            paths = []
        views: dict[Path, tuple[object, RecipeView]] = {}
        for path in paths:
            stamp = file_stamp(path)
            old = self._recipes.get(path)
            view = old[1] if old and old[0] == stamp else _read_recipe(path, self.workspace)
            if view.recipe:
                source, data = view.recipe.source, view.recipe.data
                key = (source, data.format, tuple(data.map.items()))
                watch = self._sources.setdefault(key, _SourceWatch(source, data.format, data.map))
                watch.read(now)
                last_check = check_cache.outcome_for(view.recipe, watch.checks)
                reviewed = max(0, watch.reviewed - (last_check.invalid_left_out if last_check else 0))
                new = replace(
                    view, source_exists=watch.exists, last_check=last_check, reviewed_rows=reviewed, review_entries=watch.entries
                )
                view = view if new == view else new
            views[path] = (stamp, view)
        self._recipes = views
        return tuple(view for _, view in views.values())

    def _read_verdicts(self) -> None:
        """Read the evaluations. One that measured only a part of what another one did does not count."""
        if not self._evaluations and next(self.workspace.glob("evals/*/report.json"), None) is None:
            return
        from mlxtune.evaluation import history  # loads a schema validator, which the first screen must not wait for

        found = history.evaluations(self.workspace)
        if found != self._evaluations:
            self._evaluations, self._verdicts = found, tuple(history.counting(found))

    def _read_library(self) -> None:
        """Read the names of the adapters, and which ones were removed. Their folders are moved after the journal is written."""
        folder = self.workspace / "adapters"
        stamps = file_stamp(folder / "library.jsonl"), file_stamp(folder / ".trash")
        if stamps[0] and stamps != self._library[0]:
            from mlxtune.adapters import library  # loads the recipes' checks, which the first screen does not need

            with suppress(MlxtuneError, OSError):
                self._library = stamps, library.names_by_run(self.workspace), library.removed_runs(self.workspace)

    def _read_blind_status(self) -> BlindStatus | None:
        newest = next((one.run.folder for one in self._evaluations if one.changes), None)
        sessions = [(stamp, path) for path in newest.glob("blind/*/votes.jsonl") if (stamp := file_stamp(path))] if newest else []
        last = max(sessions, default=None)
        if last != self._blind[0]:
            self._blind = last, None
            if last:
                from mlxtune.evaluation.blind.blind_session import read_status  # slow to import, and the first screen must not wait

                with suppress(MlxtuneError, OSError):
                    self._blind = last, read_status(last[1].parent)
        return self._blind[1]

    def _read_machine(self, now: float) -> None:
        if not 0 <= now - self._machine_read_at < MACHINE_SECONDS:
            self._machine_read_at, self._memory, self._power = now, None, power()
            with suppress(OSError, ValueError, KeyError):
                result = memory()
                self._memory = result if result.total else None


class _SourceWatch:
    """The facts about a recipe's source that are known without reading it: whether it exists, its last checks, and its review's
    progress."""

    def __init__(self, source: Path, format: str, mapping: Mapping[str, str]) -> None:
        self._source, self._format, self._mapping = source, format, mapping
        self._read_at = float("-inf")
        self._journal = Tail(journal_path(source))
        self._review = ReviewState()
        self.exists = False
        self.checks: tuple[check_cache.CheckOutcome, ...] = ()  # newest first
        self.reviewed = self.entries = 0

    def read(self, now: float) -> None:
        """Check the source again, unless it was checked a moment ago."""
        if 0 <= now - self._read_at < SOURCE_SECONDS:
            return
        self._read_at = now
        self.exists = exists(self._source)
        self.checks = check_cache.load(self._source, self._format, self._mapping) if self._source.exists() else ()
        if events := self._journal.read():
            self._review = apply_events(events, self._review)
            self.entries += len(events)
            decisions = self._review.decisions.values()
            self.reviewed = sum(decision.status not in ("pending", "skipped") for decision in decisions)


def _read_recipe(path: Path, workspace: Path) -> RecipeView:
    title = one_line(path.name)
    try:
        recipe = load(path)
    except MlxtuneError as error:
        return RecipeView(path, title, None, error=one_line(error.message), hint=one_line(error.hint))
    return RecipeView(path, title, recipe, display_path(recipe.source, workspace), exists(recipe.source))
