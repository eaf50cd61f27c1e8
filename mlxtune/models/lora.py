"""LoRA adapters on a loaded model, in mlx-lm's folder layout: both sides open what the other wrote."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.core.files import write_bytes, write_json
from mlxtune.core.text import nearest
from mlxtune.recipe import AdapterSection

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def add(model: nn.Module, section: AdapterSection, seed: int) -> dict[str, Any]:
    """Put fresh LoRA layers on ``model`` (B is zero, so outputs do not change) and return mlx-lm's configuration of them.

    Raises ``RecipeError`` when a target names no layer.
    """
    mx.random.seed(seed)
    layers = len(model.layers)
    count = layers if section.layers == "all" else min(section.layers, layers)
    parameters = {"rank": section.rank, "scale": section.scale, "dropout": section.dropout, "keys": _keys(model, section)}
    model.freeze()
    linear_to_lora_layers(model, count, parameters)
    mx.eval(model.parameters())
    return {"fine_tune_type": "lora", "num_layers": count, "lora_parameters": parameters}


def weights(model: nn.Module) -> dict[str, mx.array]:
    """The adapter's arrays by their mlx-lm names."""
    return dict(tree_flatten(model.trainable_parameters()))


def save(folder: Path, arrays: dict[str, mx.array], config: dict[str, Any]) -> None:
    """Write an adapter folder, each file whole. Raises ``MachineError`` on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, to_bytes(arrays))
    write_json(folder / CONFIG, config)


def load(model: nn.Module, folder: Path) -> None:
    """Put the adapter in ``folder`` on ``model``, frozen, ready for inference. Raises ``ModelError`` when it does not fit."""
    check_header(folder / WEIGHTS)
    try:
        load_adapters(model, str(folder))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"The adapter in {folder} does not fit this model: {error}") from error
    model.freeze()
    mx.eval(model.parameters())
    model.eval()


def to_bytes(arrays: dict[str, mx.array]) -> bytes:
    """``arrays`` as the bytes of a safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS
        mx.save_safetensors(str(file), arrays, metadata={"format": "mlx"})
        return file.read_bytes()


def check_header(file: Path) -> None:
    """Refuse a file that is not whole safetensors, before anything maps it. Raises ``ModelError``."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 0 < length <= min(size - 8, 2**26) else None
    except FileNotFoundError as error:
        raise ModelError(f"There is no adapter at {file.parent}.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} has a broken header: {error}.") from error
    ends = (
        [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"] if isinstance(header, dict) else None
    )
    if not ends or max(ends) != size - 8 - length:
        raise ModelError(f"{file} is not whole: its header and its size do not agree.")


def _keys(model: nn.Module, section: AdapterSection) -> list[str]:
    """The names inside a layer that get an adapter."""
    found = {
        name
        for layer in model.layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | nn.QuantizedLinear)
    }
    if section.targets == "all-linear":
        return sorted(found)
    if section.targets == "attention":
        return sorted(name for name in found if "attn" in name or "attention" in name)
    keys = set()
    for target in section.targets:
        matches = {name for name in found if name == target or name.endswith(f".{target}")}
        if not matches:
            leaves = sorted({name.rsplit(".", 1)[-1] for name in found})
            hint = nearest(target, leaves)
            raise RecipeError(
                f"adapter.targets: no layer of this model is called {target}.",
                mend=f"Did you mean {hint}?" if hint else f"It has {', '.join(leaves)}.",
            )
        keys |= matches
    return sorted(keys)
