"""LoRA and DoRA adapters on a loaded model, in mlx-lm's folder layout: both sides open what the other wrote."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.core.files import write_bytes, write_json
from mlxtune.core.safetensors import read_header
from mlxtune.core.text import nearest
from mlxtune.recipe import AdapterSection

_LINEAR = nn.Linear | nn.QuantizedLinear
_ADAPTABLE = _LINEAR | nn.Embedding | nn.QuantizedEmbedding | SwitchLinear | QuantizedSwitchLinear
_ROUTER = re.compile(r"(^|\.)(\w*router|gate|shared_expert_gate)(\.|$)")

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def add(model: nn.Module, section: AdapterSection, seed: int) -> dict[str, Any]:
    """Put fresh adapters on ``model`` (B is zero, so outputs do not change) and return mlx-lm's configuration of them.

    Only A, B and DoRA's magnitudes ``m`` are trainable then. Raises ``RecipeError`` when a target names no module, or one that
    cannot have such an adapter.
    """
    mx.random.seed(seed)
    layers = len(model.layers)
    count = layers if section.layers == "all" else min(section.layers, layers)
    parameters = {"rank": section.rank, "scale": section.scale, "dropout": section.dropout, "keys": _keys(model, section)}
    model.freeze()
    linear_to_lora_layers(model, count, parameters, use_dora=section.kind == "dora")
    mx.eval(model.parameters())
    return {"fine_tune_type": section.kind, "num_layers": count, "lora_parameters": parameters}


def put(model: nn.Module, folder: Path) -> None:
    """Give the adapters on ``model`` the weights of the adapter in ``folder``. Raises ``ModelError`` when they do not fit."""
    read_header(folder / WEIGHTS)
    found: Any = mx.load(str(folder / WEIGHTS))
    own: dict[str, mx.array] = {}
    for name, module in model.named_modules():
        if "lora_a" in module:
            own |= {f"{name}.{part}": module[part] for part in ("lora_a", "lora_b", "m") if part in module}
    odd = sorted(own.keys() ^ found.keys()) or [name for name in own if own[name].shape != found[name].shape]
    if odd:
        raise ModelError(f"The adapter in {folder} does not fit this model: {odd[0]} has no match.")
    model.update(tree_unflatten([(name, array.astype(own[name].dtype)) for name, array in found.items()]))
    mx.eval(model.parameters())


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
    read_header(folder / WEIGHTS)
    try:
        load_adapters(model, str(folder))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"The adapter in {folder} does not fit this model: {error}") from error
    model.freeze()
    mx.eval(model.parameters())
    model.eval()


def to_bytes(arrays: dict[str, mx.array]) -> bytes:
    """``arrays`` as the bytes of a safetensors file."""
    file: Any = io.BytesIO()
    mx.save_safetensors(file, arrays, metadata={"format": "mlx"})
    data: bytes = file.getvalue()
    return data


def _keys(model: nn.Module, section: AdapterSection) -> list[str]:
    """mlx-lm's names of the modules that get an adapter: those of a layer as seen from it, others as seen from the model.

    ``all-linear`` leaves out experts, whose adapters would outgrow them all, and routers, which a few rows unbalance.
    """
    layers = {name: module for layer in model.layers for name, module in layer.named_modules() if isinstance(module, _ADAPTABLE)}
    if isinstance(section.targets, str):
        usual = sorted(name for name, module in layers.items() if isinstance(module, _LINEAR) and not _ROUTER.search(name))
        keys = usual if section.targets == "all-linear" else [name for name in usual if "attn" in name or "attention" in name]
        if not keys:
            raise RecipeError(f"adapter.targets: this model has nothing that is {section.targets}.", mend="List names instead.")
        return keys
    known = {id(module) for layer in model.layers for module in layer.modules()}
    others = {name: module for name, module in model.named_modules() if isinstance(module, _ADAPTABLE) and id(module) not in known}
    found = layers | others
    chosen: dict[str, nn.Module] = {}
    for target in section.targets:
        matches = {name: module for name, module in found.items() if name == target or name.endswith(f".{target}")}
        if not matches:
            raise RecipeError(f"adapter.targets: no layer of this model is called {target}.", mend=_instead(target, found))
        chosen |= matches
    refused = [name for name, module in sorted(chosen.items()) if section.kind == "dora" and not isinstance(module, _LINEAR)]
    if refused:
        raise RecipeError(
            f"adapter.targets: {refused[0]} cannot have a DoRA adapter: mlx-lm has it for linear layers.",
            mend='Use kind = "lora", or leave it out.',
        )
    return sorted(chosen)


def _instead(target: str, found: dict[str, nn.Module]) -> str:
    """What to write for a target that names nothing."""
    leaves = sorted({name.rsplit(".", 1)[-1] for name in found})
    if target == "lm_head" and "embed_tokens" in leaves:
        return "Its head is its embedding: use embed_tokens."
    hint = nearest(target, leaves)
    return f"Did you mean {hint}?" if hint else f"It has {', '.join(leaves)}."
