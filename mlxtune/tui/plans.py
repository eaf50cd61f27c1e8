"""Plans of a recipe that is being edited: what takes seconds is asked once, and again only when an edit changes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.recipe import Recipe
from mlxtune.tui.follow import stamp

if TYPE_CHECKING:  # planning loads arrays and catalogues, which the first screen should not wait for
    from mlxtune.data.split import Split
    from mlxtune.planning.cost import Bill
    from mlxtune.planning.plan import Plan, Planner

Progress = Callable[[str, float], None]


class Away(InputError):
    """The base is not on this machine, nothing is known of it, and nobody has asked to fetch it."""


@dataclass(frozen=True)
class Prepared:
    """All that edits of batches, rates and adapters leave as it is. ``here``: the base is on this machine."""

    asked: object
    planner: Planner
    shares: Split
    here: bool


@dataclass(frozen=True)
class Outcome:
    """A plan and what it costs; unless the base is ``here``, its shapes are the catalogue's and tokens are counted by another tokenizer."""

    plan: Plan
    bill: Bill
    here: bool


class Plans:
    """The plans of one workspace. Threads take turns; two plans of the same rows measure them once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._turn = threading.Lock()
        self._known: Prepared | None = None

    def plan(self, recipe: Recipe, progress: Progress) -> Outcome:
        """What ``recipe`` would cost. Raises :class:`Away` where its base has to be fetched first, and what the worker would raise."""
        with self._turn:
            return self._plan(recipe, progress)

    def probe(self, recipe: Recipe, progress: Progress) -> Outcome:
        """The plan after two steps were run at the worst batch, in a process of their own. Raises ``MachineError`` when it dies."""
        with self._turn:
            loaded, known = self._prepared(recipe, progress)
            progress("running two steps at the worst batch", 0.0)
            known.planner.probe(loaded)
            return self._plan(recipe, progress)

    def fetch(self, recipe: Recipe, progress: Progress) -> Outcome:
        """The plan after the base was fetched. Raises ``ModelError`` or ``MachineError`` when it cannot be."""
        from mlxtune.models.resolve import resolve

        with self._turn:
            resolve(recipe.model.base, near=recipe.folder, progress=progress)
            self._known = None
            return self._plan(recipe, progress)

    def _plan(self, recipe: Recipe, progress: Progress) -> Outcome:
        from mlxtune.planning.cost import bill
        from mlxtune.planning.machine import machine

        loaded, known = self._prepared(recipe, progress)
        found = known.planner.plan(loaded, known.shares, workspace=self._workspace)
        return Outcome(found, bill(found, loaded.method.kind, chip=machine().chip), known.here)

    def _prepared(self, recipe: Recipe, progress: Progress) -> tuple[Recipe, Prepared]:
        from mlxtune.data import review
        from mlxtune.data.source import read_source
        from mlxtune.data.split import split
        from mlxtune.models.resolve import here
        from mlxtune.runs import parents

        loaded = parents.resolve(self._workspace, recipe)
        files = sorted(loaded.source.glob("*.jsonl")) if loaded.source.is_dir() else [loaded.source]
        marks = [stamp(file) for file in (*files, review.journal_path(loaded.source))]
        asked = (loaded.model.base, loaded.data, loaded.method.kind, loaded.folder, marks)
        if self._known is None or self._known.asked != asked:
            progress("measuring the rows", 0.0)
            shares = split(read_source(loaded.source, loaded.data.format, loaded.data.map), loaded.data)
            present = here(loaded.model.base, near=loaded.folder)
            planner = _seen(loaded) if present else _unseen(loaded)
            self._known = Prepared(asked, planner, shares, present)
        return loaded, self._known


def _seen(recipe: Recipe) -> Planner:
    from mlxtune.models.resolve import resolve
    from mlxtune.planning import ask, shapes
    from mlxtune.planning.machine import machine
    from mlxtune.planning.plan import Planner

    source = resolve(recipe.model.base, near=recipe.folder, fetch=False)
    return Planner(machine(), shapes.read(source.folder, source.config), ask.lengths(recipe), source.fingerprint)


def _unseen(recipe: Recipe) -> Planner:
    """What is known of a base that is not here, without fetching anything."""
    from mlxtune.models import bundled, catalog, outline
    from mlxtune.models.resolve import resolve
    from mlxtune.planning.machine import machine

    known = catalog.find(recipe.model.base)
    if known and bundled.ready():
        return outline.unseen(recipe, known, machine())
    if recipe.model.base == bundled.ALIAS or ("/" in recipe.model.base and not recipe.model.base.startswith((".", "/", "~"))):
        raise Away(f"{one_line(recipe.model.base)} is not on this machine yet.")
    resolve(recipe.model.base, near=recipe.folder, fetch=False)  # says that there is none
    raise Away(f"{one_line(recipe.model.base)} is not on this machine.")
