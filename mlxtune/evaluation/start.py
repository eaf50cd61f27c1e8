"""Start an evaluation of a run's adapter and its base, or of a base alone."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.registry import Run


def has_adapter(run: Run) -> bool:
    """Return whether ``run`` has an adapter to evaluate."""
    return (run.adapter / "adapters.safetensors").is_file()


def require_adapter(run: Run) -> None:
    """Raise ``InputError`` if ``run`` has no adapter."""
    if not has_adapter(run):
        raise InputError(f"{run.id} has no adapter: it is {run.status()}.", hint="Let it finish, or run: mlxtune runs resume")


def start(workspace: Path, recipe: Recipe, run: Run | None = None, adapter: Path | None = None, *, template: str = "") -> Run:
    """Start the worker that evaluates the arms of ``recipe``, with the run's adapter or the one in the folder ``adapter``.

    ``template`` is the source of a chat template that replaces the recipe's. Returns the evaluation. Raises ``InputError``
    if the run has no adapter, and ``MachineError`` if the worker does not start.
    """
    if run:
        require_adapter(run)
    request = {"run": run.id, "adapter": str(run.adapter)} if run else {"adapter": str(adapter)} if adapter else {}
    return launch.start(workspace, "eval", recipe, request, template=template)
