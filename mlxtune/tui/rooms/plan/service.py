"""Plan a recipe while it is being edited. Slow inputs are recomputed only after an edit that changes them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.advice.evidence import seconds_per_answer
from mlxtune.core.child_process import Progress, StoppableCall, quiet
from mlxtune.core.errors import InputError
from mlxtune.core.files import file_stamp
from mlxtune.core.text import one_line
from mlxtune.data import review
from mlxtune.data.free_rates import FreeRates
from mlxtune.data.split import Splits, recipe_splits
from mlxtune.evaluation.arms import contest
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.free_arms import free_rates
from mlxtune.evaluation.holdout.ledger import looks
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.models import bundled, catalog, resolve
from mlxtune.models.bundled import install
from mlxtune.planning import machine
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.plan import PlannedRecipe, Planner, local_planner
from mlxtune.recipe import Recipe
from mlxtune.runs.registry import resolve_parent
from mlxtune.training.preflight import require_searchable
from mlxtune.training.search.budget import SearchPrice, price_search


class MissingBaseError(InputError):
    """The base is not on this machine, and the catalog does not list its shapes."""


@dataclass(frozen=True)
class _PlanInputs:
    """Inputs that do not depend on batches, rates and adapters. ``local``: whether the base is on this machine."""

    key: object
    planner: Planner
    splits: Splits
    local: bool


class PlanService:
    """Plans the recipes in one workspace, one at a time. Consecutive plans of the same rows measure them only once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._inputs: _PlanInputs | None = None
        self._free: tuple[object, FreeRates | None] = (None, None)  # with the key of what it was computed from

    def plan(
        self, recipe: Recipe, progress: Progress, is_outdated: Callable[[], bool], fetch: bool = False
    ) -> PlannedRecipe | None:
        """Plan ``recipe``, or return ``None`` if that ``is_outdated`` once earlier plans are done. With ``fetch``, first download the base.

        Raise :class:`MissingBaseError` if the base must be downloaded, or any error of the download or of the worker.
        """
        with self._lock:
            if fetch:
                resolve.resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
                self._inputs = None
            return None if is_outdated() else self._plan(recipe, progress)

    def probe(self, recipe: Recipe, progress: Progress, on_start: Callable[[StoppableCall[StepCost]], None]) -> bool:
        """Run two steps with the largest batch in a child process, and return whether they ended. Raise ``MachineError`` if it dies.

        ``on_start`` is called with the process, which can be stopped. The recipe can be planned meanwhile.
        """
        with self._lock:
            loaded, inputs = self._prepare(recipe, progress)
        return inputs.planner.probe(loaded, progress, on_start) is not None

    def price_search(self, recipe: Recipe) -> SearchPrice | None:
        """Return what a search of ``recipe`` takes, or ``None`` before its base is here. Raise ``InputError`` if it cannot be searched."""
        require_searchable(recipe)
        with suppress(MissingBaseError), self._lock:
            loaded, inputs = self._prepare(recipe, quiet)
            plan = inputs.planner.plan(loaded, inputs.splits, workspace=self._workspace)
            return price_search(loaded, plan, answering=seconds_per_answer(self._workspace, loaded))
        return None

    def _plan(self, recipe: Recipe, progress: Progress) -> PlannedRecipe:
        loaded, inputs = self._prepare(recipe, progress)
        plan = inputs.planner.plan(loaded, inputs.splits, workspace=self._workspace)
        key = (inputs.key, loaded.evaluation, loaded.schema_file and file_stamp(loaded.schema_file))
        if self._free[0] != key:
            self._free = key, free_rates(loaded, inputs.splits)
        rows = [row.id for row in inputs.splits.evaluated]
        plan = replace(plan, contest=contest(loaded), free=self._free[1], looks=looks(self._workspace, rows))
        return PlannedRecipe(recipe, loaded, plan, inputs.local)

    def _prepare(self, recipe: Recipe, progress: Progress) -> tuple[Recipe, _PlanInputs]:
        loaded = resolve_parent(self._workspace, recipe)
        Contract.from_recipe(loaded)
        load_prompts(loaded)
        files = sorted(loaded.source.glob("*.jsonl")) if loaded.source.is_dir() else [loaded.source]
        stamps = [file_stamp(file) for file in (*files, review.journal_path(loaded.source))]
        key = (loaded.model, loaded.data, loaded.method.kind, loaded.folder, stamps)
        if self._inputs is None or self._inputs.key != key:
            progress("measuring the rows", 0.0)
            splits = recipe_splits(loaded)
            local = resolve.is_local(loaded.model.base, relative_to=loaded.folder)
            if local:
                base = resolve.resolve(loaded.model.base, relative_to=loaded.folder, fetch=False)
                planner = local_planner(loaded, base.folder, base.config, machine.this_machine(), base.fingerprint)
            self._inputs = _PlanInputs(key, planner if local else _catalog_planner(loaded), splits, local)
        return self._inputs.planner.complete(loaded, self._inputs.splits), self._inputs


def _catalog_planner(recipe: Recipe) -> Planner:
    """Return a planner for a base that is not downloaded, using the catalog's shapes."""
    base = recipe.model.base
    entry = catalog.find(base)
    if entry and install.is_ready(bundled.DEFAULT):
        return entry.planner(recipe, machine.this_machine())
    on_hub = "/" in base and not base.startswith((".", "/", "~"))
    if not bundled.find(base) and not on_hub:
        resolve.resolve(base, relative_to=recipe.folder, fetch=False)  # raises if there is no such base
    raise MissingBaseError(f"{one_line(base)} is not on this machine yet.")
