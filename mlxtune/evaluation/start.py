"""Start an evaluation of a run's adapter and its base, or of a base alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.evaluation.endpoints import require_endpoints
from mlxtune.evaluation.seed_evidence import SeedAdapter
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


def start(
    workspace: Path,
    recipe: Recipe,
    run: Run | None = None,
    adapter: Path | None = None,
    *,
    seeds: Sequence[Run] = (),
    template: str = "",
    consent: str = "",
) -> Run:
    """Start the worker that evaluates the arms of ``recipe``, with the run's adapter or the one in the folder ``adapter``.

    ``seeds`` are runs that differ from ``run`` only in the seed, including itself. ``template`` is the source of a chat template that
    replaces the recipe's. ``consent`` is how the user agreed to send prompts to an endpoint. Returns the evaluation. Raises ``InputError`` if a run has no adapter, and ``MachineError`` if the worker
    does not start.
    """
    for item in seeds or ([run] if run else []):
        require_adapter(item)
    run = seeds[0] if seeds else run
    request: dict[str, Any] = {"run": run.id, "adapter": str(run.adapter)} if run else {"adapter": str(adapter)} if adapter else {}
    require_endpoints(recipe, consent)
    if consent:
        request["consent"] = consent
    if seeds:
        request["seeds"] = [asdict(SeedAdapter(item.id, item.recipe().training.seed, str(item.adapter))) for item in seeds]
    return launch.start(workspace, "eval", recipe, request, template=template)
