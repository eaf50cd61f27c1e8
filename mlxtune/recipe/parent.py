"""An adapter to start from decides what the new one is: the same matrices learn on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from mlxtune.core.errors import InputError, RecipeError
from mlxtune.core.files import read_json
from mlxtune.recipe.schema import Recipe

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"


def inherit(recipe: Recipe, folder: Path) -> Recipe:
    """``recipe`` with the adapter in ``folder`` as its parent, whose kind, rank, scale, layers and targets it takes over.

    ``folder`` is in mlx-lm's layout. Raises ``RecipeError`` when nothing can be read there.
    """
    try:
        config = read_json(folder / CONFIG)
        kind, parameters = config["fine_tune_type"], config["lora_parameters"]
        rank, scale, keys = parameters["rank"], parameters["scale"], parameters.get("keys")
        layers = config["num_layers"]
        good = kind in ("lora", "dora") and rank >= 1 and math.isfinite(scale) and isinstance(keys, list)
    except (InputError, KeyError, TypeError) as error:
        raise RecipeError(f"adapter.parent: there is no adapter of mlx-lm's layout in {folder}.") from error
    if not good:
        raise RecipeError(f"adapter.parent: the adapter in {folder} is not one that training can go on with.")
    section = replace(
        recipe.adapter, parent=str(folder.resolve()), kind=kind, rank=rank, alpha=scale * rank, rslora=False,
        layers="all" if layers < 0 else layers, targets=list(keys),
    )  # fmt: skip
    return replace(recipe, adapter=section)
