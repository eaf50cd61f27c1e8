"""Start an evaluation of a run's adapter and its base, or of a base alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mlxtune.adapters.entry import AdapterEntry, with_template_settings
from mlxtune.core.errors import InputError
from mlxtune.evaluation.judge.endpoint import require_endpoints
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.registry import Run


def start(
    workspace: Path,
    recipe: Recipe,
    run: Run | None = None,
    entry: AdapterEntry | None = None,
    *,
    seeds: Sequence[Run] = (),
    consent: str = "",
    last_look: bool = False,
    kind: Literal["eval", "validate"] = "eval",
) -> Run:
    """Start the worker that evaluates the arms of ``recipe``, with the adapter of ``run`` or of ``entry``; return the evaluation.

    Prompts are rendered as for the training of ``entry`` where ``recipe`` has only defaults. ``seeds`` are runs that differ from
    ``run`` only in the seed, including itself. ``consent`` is how the user agreed to send prompts to an endpoint. ``last_look``
    evaluates the reserved rows, and the ``kind`` ``validate`` the validation rows. Raises ``InputError`` if a run has no adapter,
    and ``MachineError`` if the worker does not start.
    """
    template = entry.template if entry and not recipe.model.template else ""
    recipe = with_template_settings(recipe, entry) if entry else recipe
    seeds = [item.with_adapter() for item in seeds]
    run = seeds[0] if seeds else run.with_adapter() if run else None
    request: dict[str, Any] = (
        {"run": run.id, "adapter": str(run.adapter)} if run else {"adapter": str(entry.folder)} if entry else {}
    )
    require_endpoints(recipe, consent)
    if last_look and not request:
        raise InputError("The last look at the reserved rows needs an adapter.", hint="Use: mlxtune eval last --last-look")
    options = {"last_look": last_look, "consent": consent, "seeds": [str(item.adapter) for item in seeds]}
    request |= {key: value for key, value in options.items() if value}
    return launch.start(workspace, kind, recipe, request, template=template)
