"""Plans of a recipe that is being edited: what takes seconds is asked once, and again only when an edit changes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.models.resolve import ALIASES, here, resolve
from mlxtune.recipe import Recipe
from mlxtune.tui.follow import stamp

if TYPE_CHECKING:  # planning loads arrays, which the first screen should not wait for
    from mlxtune.data.split import Split
    from mlxtune.planning.plan import Plan, Planner

Progress = Callable[[str, float], None]


class Away(InputError):
    """The base is not on this machine, and nobody has asked to fetch it."""


class Plans:
    """The plans of one workspace. Threads take turns; two plans of the same rows measure them once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._turn = threading.Lock()
        self._known: tuple[object, Planner, Split] | None = None

    def plan(self, recipe: Recipe, progress: Progress) -> Plan:
        """What ``recipe`` would cost. Raises :class:`Away` where its base has to be fetched first, and what the worker would raise."""
        with self._turn:
            loaded, planner, shares = self._prepared(recipe, progress)
            return planner.plan(loaded, shares, workspace=self._workspace)

    def probe(self, recipe: Recipe, progress: Progress) -> Plan:
        """The plan after two steps were run at the worst batch, in a process of their own. Raises ``MachineError`` when it dies."""
        with self._turn:
            loaded, planner, shares = self._prepared(recipe, progress)
            planner.probe(loaded)
            return planner.plan(loaded, shares, workspace=self._workspace)

    def fetch(self, recipe: Recipe, progress: Progress) -> Plan:
        """The plan after the base was fetched. Raises ``ModelError`` or ``MachineError`` when it cannot be."""
        with self._turn:
            resolve(recipe.model.base, near=recipe.folder, progress=progress)
        return self.plan(recipe, progress)

    def _prepared(self, recipe: Recipe, progress: Progress) -> tuple[Recipe, Planner, Split]:
        from mlxtune.data import review
        from mlxtune.data.source import read_source
        from mlxtune.data.split import split
        from mlxtune.planning import ask, shapes
        from mlxtune.planning.machine import machine
        from mlxtune.planning.plan import Planner
        from mlxtune.runs import parents

        loaded = parents.resolve(self._workspace, recipe)
        files = sorted(loaded.source.glob("*.jsonl")) if loaded.source.is_dir() else [loaded.source]
        marks = [stamp(file) for file in (*files, review.journal_path(loaded.source))]
        asked = (loaded.model.base, loaded.data, loaded.method.kind, loaded.folder, marks)
        if self._known is None or self._known[0] != asked:
            if _on_a_hub(loaded.model.base) and not here(loaded.model.base, near=loaded.folder):
                raise Away(f"{one_line(loaded.model.base)} is not on this machine yet.")
            progress("measuring the rows", 0.0)
            shares = split(read_source(loaded.source, loaded.data.format, loaded.data.map), loaded.data)
            source = resolve(loaded.model.base, near=loaded.folder)
            planner = Planner(machine(), shapes.read(source.folder, source.config), ask.lengths(loaded), source.fingerprint)
            self._known = asked, planner, shares
        return loaded, *self._known[1:]


def _on_a_hub(base: str) -> bool:
    """Whether ``base`` could be fetched, and is not the path of a folder."""
    return base in ALIASES or ("/" in base and not base.startswith((".", "/", "~")))
