"""Refuse to resume a run whose base, parent or settings differ from those that its checkpoint was trained with.

The result would match neither the old nor the new settings. Rows, their order and their batches are checked by the loop itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mlxtune.core.errors import DataError, ModelError
from mlxtune.models.resolve import same_base
from mlxtune.recipe import Recipe

# Settings that change neither the weights of a step nor the number of steps.
_ADJUSTABLE = {
    "training": {
        "grad_checkpoint", "cache_frozen", "validate_every", "early_stop", "save_every", "samples", "keep", "wait_for",
    },
    "adapter": {"parent"},
}  # fmt: skip


def make_origin(recipe: Recipe, base: str, parent: str) -> dict[str, Any]:
    """Return the settings that must not change between a checkpoint and its resumption, as JSON.

    ``base`` is the fingerprint of the base, and ``parent`` is the hash of the parent adapter's weights or empty.
    """
    sections = {"adapter": asdict(recipe.adapter), "method": asdict(recipe.method), "training": asdict(recipe.training)}
    settings = {
        f"{section}.{key}": value
        for section, values in sections.items()
        for key, value in values.items()
        if key not in _ADJUSTABLE.get(section, ())
    }
    return {"base": base, "parent": parent, "model.quantize": recipe.model.quantize, **settings}


def check_origin(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Raise ``ModelError`` for another base or parent, or ``DataError`` for the first setting that differs.

    ``before`` is empty in checkpoints of older versions.
    """
    until = f"up to its checkpoint at step {step:,}"
    if before and not same_base(before["base"], now["base"]):
        raise ModelError(
            f"The base's weights differ from those that the run used {until}.", hint="Restore the model, or start a new run."
        )
    if before and before["parent"] != now["parent"]:
        raise ModelError(
            f"The parent's weights differ from those that the run used {until}.", hint="Restore the adapter, or start a new run."
        )
    for key in before.keys() & now.keys() - {"base", "parent"}:
        if before[key] != now[key]:
            raise DataError(
                f"{key} is {now[key]}, but the run used {before[key]} {until}.",
                hint="Restore it in the run's recipe.toml, or start a new run.",
            )
