"""Start an evaluation: of a run's adapter against its base, or of a base alone. No mlx here: faces call it."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.registry import Run


def trained(run: Run) -> bool:
    """Whether ``run`` left an adapter that can be measured."""
    return (run.adapter / "adapters.safetensors").is_file()


def require_trained(run: Run) -> None:
    """Raises ``InputError`` when ``run`` has no adapter."""
    if not trained(run):
        raise InputError(f"{run.id} has no adapter: it is {run.status()}.", mend="Let it finish, or resume it: mlxtune runs resume")


def start(workspace: Path, recipe: Recipe, run: Run | None = None, adapter: Path | None = None) -> Run:
    """Start the worker that measures the arms of ``recipe``, with the adapter of ``run``, or the one in the folder ``adapter``.

    Returns the evaluation. Raises ``InputError`` when that run has no adapter, ``MachineError`` when the worker ends without a word.
    """
    if run:
        require_trained(run)
    asked = {"run": run.id, "adapter": str(run.adapter)} if run else {"adapter": str(adapter)} if adapter else {}
    return launch.start(workspace, "eval", recipe, asked)
