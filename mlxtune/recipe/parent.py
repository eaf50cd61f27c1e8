"""Inherit settings from a parent adapter, whose matrices are trained further."""

import math
from dataclasses import replace
from pathlib import Path

from mlxtune.core.errors import InputError, RecipeError
from mlxtune.core.files import read_json
from mlxtune.recipe.schema import Recipe

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"


def inherit(recipe: Recipe, folder: Path) -> Recipe:
    """Return ``recipe`` with the adapter in ``folder`` as its parent, inheriting its kind, rank, scale, layers, and targets.

    ``folder`` has mlx-lm's layout. Raise ``RecipeError`` if it is not a usable adapter.
    """
    try:
        config = read_json(folder / CONFIG)
        kind, parameters = config["fine_tune_type"], config["lora_parameters"]
        rank, scale, keys = parameters["rank"], parameters["scale"], parameters.get("keys")
        layers = config["num_layers"]
        usable = kind in ("lora", "dora") and rank >= 1 and math.isfinite(scale) and isinstance(keys, list)
    except (InputError, KeyError, TypeError) as error:
        raise RecipeError(f"adapter.parent: {folder} is not an adapter in mlx-lm's layout.") from error
    if not usable:
        raise RecipeError(f"adapter.parent: the adapter in {folder} cannot be trained further.")
    section = replace(
        recipe.adapter, parent=str(folder.resolve()), kind=kind, rank=rank, alpha=scale * rank, rslora=False,
        layers="all" if layers < 0 else layers, targets=list(keys),
    )  # fmt: skip
    return replace(recipe, adapter=section)
