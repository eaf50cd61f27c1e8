"""Start, resume, and stop runs of every kind, for the command line, the app, and the API.

Each function takes a recipe that was parsed before, so that an action parses it once. Imports of the packages that start workers are
inside the functions, because the app's first screen must not wait for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlxtune.core.child_process import Progress, python_command, quiet, start_detached
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.text import duration
from mlxtune.recipe import Recipe
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import ACTIVE, Run
from mlxtune.runs.state import RunState

if TYPE_CHECKING:
    from mlxtune.adapters.entry import AdapterEntry

STOP_PATIENCE = 5.0  # seconds after which a caller learns that a run is still finishing its step
STOP_LIMIT = 600.0  # seconds after which waiting for a run to stop gives up


class StopEffect(StrEnum):
    CHECKPOINT = "checkpoint"  # a training run saves its step, and can be resumed from it
    FIRST_STEP = "first_step"  # the same, if its first step has begun
    TRIAL_CHECKPOINT = "trial_checkpoint"  # a search saves its current trial, and can be continued
    ANSWERS = "answers"  # an evaluation keeps the answers that it has
    NOTHING = "nothing"  # the work has to start again


def train(workspace: Path, recipe: Recipe, request: Mapping[str, Any] | None = None, *, progress: Progress = quiet) -> Run:
    """Start a training run after the checks of :func:`mlxtune.training.preflight.preflight`, and return it."""
    from mlxtune.training.preflight import preflight

    return _log_metrics(launch.start(workspace, "train", preflight(workspace, recipe, progress), request), request or {})


def _log_metrics(run: Run, request: Mapping[str, Any]) -> Run:
    """Export the metrics of ``run`` while it runs, in a process of its own, if its ``request`` names a format."""
    if form := request.get("track"):
        options = ["--to", form, "--live", *(["--online"] if request["online"] else [])]
        start_detached(
            python_command("mlxtune", "runs", "export", run.id, *options), run.folder / "track.log", run.folder.parent.parent
        )
    return run


def search(workspace: Path, recipe: Recipe, *, progress: Progress = quiet) -> Run:
    """Start a hyperparameter search after the same checks, and return its run. Raise ``InputError`` if ``recipe`` cannot be searched."""
    from mlxtune.training.preflight import preflight, require_searchable

    require_searchable(recipe)
    return launch.start(workspace, "search", preflight(workspace, recipe, progress))


def evaluate(
    workspace: Path, recipe: Recipe, run: Run | None = None, entry: AdapterEntry | None = None, *, seeds: Sequence[Run] = (),
    consent: str = "", last_look: bool = False, kind: Literal["eval", "validate"] = "eval", progress: Progress = quiet,
) -> Run:  # fmt: skip
    """Start an evaluation of ``recipe`` with the adapter of ``run`` or ``entry``, or of its base alone, and return its run.

    Prompts are rendered as for the training of ``entry`` where ``recipe`` has only defaults. ``seeds`` are runs that differ from
    ``run`` only in the seed, including itself. ``consent`` is how the user agreed to send prompts to an endpoint. ``last_look``
    evaluates the reserved rows, and the ``kind`` ``validate`` the validation rows. Raise ``InputError`` if the recipe, its data, or
    the adapter cannot be used, and ``MachineError`` if the worker does not start.
    """
    from mlxtune.adapters.entry import with_template_settings
    from mlxtune.evaluation.judge.endpoint import require_endpoints
    from mlxtune.training.preflight import check_recipe

    check_recipe(recipe)
    fetch_base(recipe, progress)
    template = entry.template if entry and not recipe.model.template else ""
    recipe = with_template_settings(recipe, entry) if entry else recipe
    seeds = [item.with_adapter() for item in seeds]
    run = seeds[0] if seeds else run.with_adapter() if run else None
    adapter = {"run": run.id, "adapter": str(run.adapter)} if run else {"adapter": str(entry.folder)} if entry else {}
    require_endpoints(recipe, consent)
    if last_look and not adapter:
        raise InputError("The last look at the reserved rows needs an adapter.", hint="Use: mlxtune eval last --last-look")
    options = {"last_look": last_look, "consent": consent, "seeds": [str(item.adapter) for item in seeds]}
    request = adapter | {key: value for key, value in options.items() if value}
    return launch.start(workspace, kind, recipe, request, template=template)


def validate(workspace: Path, run: Run, *, max_tokens: int | None = None, progress: Progress = quiet) -> Run:
    """Start an evaluation of a run's adapter and its base on the validation rows, which counts neither as a verdict nor as a look.

    ``max_tokens`` replaces the recipe's limit of answers.
    """
    recipe = registry.evaluation_recipe(run)[0]
    section = replace(recipe.evaluation, arms=["base", "tuned"], rows=0, regression="")
    recipe = replace(recipe, evaluation=replace(section, max_tokens=max_tokens or section.max_tokens))
    return evaluate(workspace, recipe, run, kind="validate", progress=progress)


def fetch_base(recipe: Recipe, progress: Progress = quiet) -> None:
    """Download the base model if it is missing. Raise ``ModelError`` or ``MachineError`` if that fails."""
    from mlxtune.models.resolve import resolve

    resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)


def resume(run: Run, *, progress: Progress = quiet) -> Run:
    """Continue a run that ended early. A training run is checked again as when it was started."""
    if run.kind == "train" and run.status() not in ACTIVE | {"finished"}:
        from mlxtune.training.preflight import preflight

        preflight(run.folder.parent.parent, run.recipe(), progress)
    return _log_metrics(launch.resume(run), launch.read_request(run.folder))


def stop_effect(kind: str, state: RunState) -> StopEffect:
    if kind == "search":
        return StopEffect.TRIAL_CHECKPOINT
    if kind in ("eval", "validate"):
        return StopEffect.ANSWERS
    if kind != "train":
        return StopEffect.NOTHING
    return StopEffect.CHECKPOINT if state.step else StopEffect.FIRST_STEP if state.total else StopEffect.NOTHING


def wait_until_stopped(run: Run, on_wait: Callable[[], object]) -> None:
    """Wait until ``run`` has stopped; call ``on_wait`` once if that takes a while. Raise ``MachineError`` if it does not stop."""
    started, announced = time.monotonic(), False
    while run.status() in ACTIVE:
        waited = time.monotonic() - started
        if waited > STOP_LIMIT:
            hint = f"If its process hangs, end it without a checkpoint: kill -9 {run.state().pid}"
            raise MachineError(f"{run.id} has not stopped within {duration(STOP_LIMIT)}.", hint=hint)
        if not announced and waited > STOP_PATIENCE:
            announced = True
            on_wait()
        time.sleep(0.1)
