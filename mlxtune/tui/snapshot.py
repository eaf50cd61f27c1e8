"""What the app knows of a workspace: one immutable snapshot at a time, read from the journals that workers write.

This is the gate for other people's text. Every string of a snapshot that came from a dataset, a model or a file has been
through ``safe_text``, so that no widget needs to ask where its text is from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.journal import Tail
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.data.decisions import State, fold
from mlxtune.data.outcome import Outcome, last
from mlxtune.data.review import journal_path
from mlxtune.planning.machine import Memory, memory
from mlxtune.recipe import Recipe, load
from mlxtune.runs import registry
from mlxtune.runs.narrate import Line
from mlxtune.runs.registry import Run, Status
from mlxtune.runs.state import RunState
from mlxtune.tui.follow import Follower, stamp
from mlxtune.tui.names import called
from mlxtune.tui.verdict import Verdict, read_verdict

if TYPE_CHECKING:
    from mlxtune.evaluation.voted import Standing

ALIVE = frozenset({"starting", "running", "quiet"})
MEMORY_EVERY = 2.0  # seconds: on a Mac, asking costs two processes
SOURCE_EVERY = 2.0  # seconds between two looks at what is known of a source


@dataclass(frozen=True)
class RunView:
    """A run as the rooms see it. ``log`` has every line of its story, ``tail`` the end of what its process printed."""

    run: Run
    status: Status
    state: RunState
    log: tuple[Line, ...] = ()
    digest: tuple[Line, ...] = ()  # the log with each stretch of steps cut to its last line
    rows: tuple[int, int, int] | None = None  # train, validation, held out
    tail: tuple[str, ...] = ()
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
        """The recipe's name, or the folder's until the worker has spoken."""
        return self.state.name or self.title

    @property
    def alive(self) -> bool:
        return self.status in ALIVE

    @property
    def updated(self) -> float:
        """When the run was last heard of, in seconds since the epoch."""
        return self.state.updated or self.created


@dataclass(frozen=True)
class RecipeView:
    """A file of ``recipes/``: what it holds, or why it cannot be read."""

    path: Path
    title: str
    recipe: Recipe | None
    source: str = ""
    source_there: bool = False
    checked: Outcome | None = None  # what the last check of its rows came to
    decided: int = 0  # rows that a review has accepted or rejected
    error: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Everything the rooms draw. Runs and evaluations are newest first; ``now`` is the time all of it was true."""

    now: float
    workspace: Path
    recipes: tuple[RecipeView, ...] = ()
    runs: tuple[RunView, ...] = ()
    evals: tuple[RunView, ...] = ()
    verdict: Verdict | None = None  # of the newest report
    memory: Memory | None = None
    best: Verdict | None = (
        None  # among those that are better, one that may be promoted first, then what kept the contract most often
    )
    votes: Standing | None = None  # of the blind session that was voted in last, if it is about the newest report

    @property
    def live(self) -> RunView | None:
        """The run or evaluation that is at work now: it has the accelerator."""
        return next((view for view in (*self.runs, *self.evals) if view.alive), None)

    @property
    def startable(self) -> tuple[RecipeView, ...]:
        """Recipes that could start now: one that goes on from another's adapter needs a run before it. All, where that leaves none."""
        ready = (view for view in self.recipes if self.runs or view.recipe is None or not view.recipe.adapter.parent)
        return tuple(ready) or self.recipes

    def find(self, id: str | None) -> RunView | None:
        """The run with that id."""
        return next((view for view in self.runs if view.id == id), None)


class Watcher:
    """Reads a workspace again and again, each time only what is new. One thread at a time may use it."""

    def __init__(self, workspace: Path, clock: Callable[[], float] = time.time) -> None:
        self.workspace = workspace
        self._clock = clock
        self._followers: dict[Path, Follower] = {}
        self._views: dict[Path, RunView] = {}
        self._recipes: dict[Path, tuple[object, RecipeView]] = {}
        self._sources: dict[Path, _SourceWatch] = {}
        self._verdicts: dict[Path, tuple[tuple[int, int, int], Verdict | None]] = {}
        self._votes: tuple[object, Standing | None] = (None, None)
        self._memory: tuple[float, Memory | None] = (float("-inf"), None)

    def read(self) -> Snapshot:
        """The workspace as it is now. Folders that vanish while they are read are left out."""
        now = self._clock()
        runs, evals = (self._runs(kind, now) for kind in ("train", "eval"))
        kept = {view.run.folder for view in (*runs, *evals)}
        self._followers = {folder: follower for folder, follower in self._followers.items() if folder in kept}
        self._views = {folder: view for folder, view in self._views.items() if folder in kept}
        newest, best = self._read_verdicts()
        return Snapshot(
            now, self.workspace, self._read_recipes(now), runs, evals, newest, self._read_memory(now), best, self._read_votes()
        )

    def _runs(self, kind: str, now: float) -> tuple[RunView, ...]:
        try:
            found = registry.all_runs(self.workspace, kind)
        except OSError:  # a folder went between being listed and being looked at
            found = []
        views = []
        for run in found:
            try:
                views.append(self._view(run, now))
            except OSError:
                continue
        return tuple(views)

    def _view(self, run: Run, now: float) -> RunView:
        """The run's view; the very same object as before when nothing about it has changed."""
        follower = self._followers.setdefault(run.folder, Follower(run))
        follower.read()
        status = run.status(follower.state, now)
        tail = follower.worker_log() if status in ("crashed", "failed") else ()
        old = self._views.get(run.folder)
        if old and old.state is follower.state and (old.status, old.tail) == (status, tail):
            return old
        log, digest = tuple(follower.log), tuple(follower.digest)
        view = RunView(run, status, follower.state, log, digest, follower.rows, tail, run.folder.stat().st_ctime)
        self._views[run.folder] = view
        return view

    def _read_recipes(self, now: float) -> tuple[RecipeView, ...]:
        try:
            found = (self.workspace / "recipes").glob("*.toml")
            paths = sorted(found, key=lambda path: (path.name != samples.RECIPE.name, path))  # the sample shop's main one is first
        except OSError:
            paths = []
        views: dict[Path, tuple[object, RecipeView]] = {}
        for path in paths:
            mark = stamp(path)
            known = self._recipes.get(path)
            view = known[1] if known and known[0] == mark else _recipe_view(path, self.workspace)
            if view.recipe:
                watch = self._sources.setdefault(view.recipe.source, _SourceWatch(view.recipe.source))
                watch.look(now)
                if (watch.there, watch.checked, watch.decided) != (view.source_there, view.checked, view.decided):
                    view = replace(view, source_there=watch.there, checked=watch.checked, decided=watch.decided)
            views[path] = (mark, view)
        self._recipes = views
        return tuple(view for _, view in views.values())

    def _read_verdicts(self) -> tuple[Verdict | None, Verdict | None]:
        """The newest verdict, and the best."""
        found: dict[Path, tuple[tuple[int, int, int], Verdict | None]] = {}
        for path in self.workspace.glob("evals/*/report.json"):
            if mark := stamp(path):
                known = self._verdicts.get(path)
                found[path] = known if known and known[0] == mark else (mark, read_verdict(path))
        self._verdicts = found
        verdicts = [verdict for _, verdict in sorted(found.values(), key=lambda item: item[0]) if verdict]
        better = [verdict for verdict in verdicts if verdict.word == "better" and verdict.metrics]
        best = max(better, key=lambda verdict: (not verdict.reservation, verdict.metrics[-1].tuned), default=None)
        return next(reversed(verdicts), None), best

    def _read_votes(self) -> Standing | None:
        """How far the blind session of the newest report has come."""
        newest = max(self._verdicts, key=lambda path: self._verdicts[path][0], default=None)
        sessions = [path for path in newest.parent.glob("blind/*/votes.jsonl") if stamp(path)] if newest else []
        last = max(sessions, key=lambda path: stamp(path) or (0, 0, 0), default=None)
        mark = (last, last and stamp(last))
        if mark != self._votes[0]:
            self._votes = (mark, _standing(last.parent) if last else None)
        return self._votes[1]

    def _read_memory(self, now: float) -> Memory | None:
        if not 0 <= now - self._memory[0] < MEMORY_EVERY:
            self._memory = (now, _memory())
        return self._memory[1]


class _SourceWatch:
    """What is known of a recipe's source without reading it: that it is there, its last check, and how far its review is."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._looked = float("-inf")
        self._journal = Tail(journal_path(source))
        self._state = State()
        self.there = False
        self.checked: Outcome | None = None
        self.decided = 0

    def look(self, now: float) -> None:
        """Look again, if that was a while ago."""
        if 0 <= now - self._looked < SOURCE_EVERY:
            return
        self._looked = now
        self.there = self._source.exists()
        self.checked = last(self._source) if self.there else None
        if events := self._journal.read():
            self._state = fold(events, self._state)
            self.decided = sum(one.status not in ("pending", "skipped") for one in self._state.decisions.values())


def _standing(folder: Path) -> Standing | None:
    from mlxtune.evaluation.voted import stands  # here, as the verdict's report: the first screen should not wait for it

    try:
        return stands(folder)
    except (MlxtuneError, OSError):
        return None


def _memory() -> Memory | None:
    try:
        found = memory()
    except (OSError, ValueError, KeyError):
        return None
    return found if found.total else None


def _recipe_view(path: Path, workspace: Path) -> RecipeView:
    title = one_line(path.name)
    try:
        recipe = load(path)
    except MlxtuneError as error:
        return RecipeView(path, title, None, error=one_line(error.message), mend=one_line(error.mend))
    return RecipeView(path, title, recipe, called(recipe.source, workspace, recipe.data.source), recipe.source.exists())


def recipe_summary(recipe: Recipe) -> str:
    """What a recipe would do, in a few words."""
    training = recipe.training
    length = f"{training.steps:,} steps" if training.steps else f"{training.epochs} {'epoch' if training.epochs == 1 else 'epochs'}"
    return f"{one_line(recipe.model.base)}, rank {recipe.adapter.rank}, {length}"
