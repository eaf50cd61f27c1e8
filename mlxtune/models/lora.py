"""LoRA and DoRA adapters for a loaded model. They use mlx-lm's folder layout, so mlx-lm can load them, and vice versa."""

import io
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
from mlxtune.core.text import one_line, suggest
from mlxtune.planning.shapes import NOT_ADAPTED
from mlxtune.recipe import AdapterSection
from mlxtune.recipe.parent import CONFIG, WEIGHTS
from mlxtune.recipe.schema import layer_count

_LINEAR = nn.Linear | nn.QuantizedLinear
_ADAPTABLE = _LINEAR | nn.Embedding | nn.QuantizedEmbedding | SwitchLinear | QuantizedSwitchLinear

ADAPTER_ARRAYS = ("lora_a", "lora_b", "m")  # the arrays of one module; m is DoRA's magnitude


def add(model: nn.Module, section: AdapterSection, seed: int) -> dict[str, Any]:
    """Add new adapters to ``model`` and return their mlx-lm configuration. B is zero, so outputs do not change.

    Only A, B and DoRA's magnitudes ``m`` are trainable afterwards. Raises ``RecipeError`` if a target matches no module, or a
    module that does not support this kind of adapter.
    """
    mx.random.seed(seed)
    count = layer_count(section.layers, len(model.layers))
    parameters = {"rank": section.rank, "scale": section.scale, "dropout": section.dropout, "keys": _keys(model, section)}
    model.freeze()
    linear_to_lora_layers(model, count, parameters, use_dora=section.kind == "dora")
    mx.eval(model.parameters())
    return {"fine_tune_type": section.kind, "num_layers": count, "lora_parameters": parameters}


def remove(model: nn.Module) -> None:
    """Replace all adapters of ``model`` with the modules that they wrap, which never change."""
    model.update_modules(tree_unflatten([(name, wrapped_module(module)) for name, module in adapter_modules(model).items()]))


def adapter_modules(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if "lora_a" in module}


def wrapped_module(adapter: Any) -> nn.Module:
    module: nn.Module = adapter["linear"] if "linear" in adapter else adapter["embedding"]
    return module


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights in ``folder`` into the adapters on ``model``. Raises ``ModelError`` if they do not match."""
    read_header(folder / WEIGHTS)
    loaded: Any = mx.load(str(folder / WEIGHTS))
    expected: dict[str, mx.array] = {}
    for name, module in adapter_modules(model).items():
        expected |= {f"{name}.{array}": module[array] for array in ADAPTER_ARRAYS if array in module}
    unmatched = sorted(expected.keys() ^ loaded.keys())
    unmatched = unmatched or [name for name in expected if expected[name].shape != loaded[name].shape]
    if unmatched:
        raise ModelError(f"The adapter in {folder} does not fit: {unmatched[0]} has no counterpart.", hint="Use its own base.")
    model.update(tree_unflatten([(name, array.astype(expected[name].dtype)) for name, array in loaded.items()]))
    mx.eval(model.parameters())


def adapter_arrays(model: nn.Module) -> dict[str, mx.array]:
    """Return the adapter's arrays by their mlx-lm names."""
    return dict(tree_flatten(model.trainable_parameters()))


def save(folder: Path, arrays: dict[str, mx.array], config: dict[str, Any]) -> None:
    """Write an adapter folder, each file atomically. Raises ``MachineError`` when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, to_bytes(arrays))
    write_json(folder / CONFIG, config)


def load(model: nn.Module, folder: Path) -> None:
    """Add the adapter in ``folder`` to ``model``, frozen, for inference. Raises ``ModelError`` if it does not match."""
    read_header(folder / WEIGHTS)
    try:
        load_adapters(model, str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"The adapter in {folder} does not match this model: {one_line(str(error), 200)}") from error
    model.freeze()
    mx.eval(model.parameters())
    model.eval()


def to_bytes(arrays: dict[str, mx.array]) -> bytes:
    file: Any = io.BytesIO()
    mx.save_safetensors(file, arrays, metadata={"format": "mlx"})
    data: bytes = file.getvalue()
    return data


def _keys(model: nn.Module, section: AdapterSection) -> list[str]:
    """Return mlx-lm's names of the target modules, relative to the layer, or to the model for modules outside the layers.

    ``all-linear`` excludes experts, whose adapters would be larger than all others, and what ``planning.shapes.NOT_ADAPTED`` matches.
    """
    layers = {name: module for layer in model.layers for name, module in layer.named_modules() if _is_adaptable(module)}
    if isinstance(section.targets, str):
        linear = sorted(name for name, module in layers.items() if isinstance(module, _LINEAR) and not NOT_ADAPTED.search(name))
        keys = linear if section.targets == "all-linear" else [name for name in linear if "attn" in name or "attention" in name]
        if not keys:
            raise RecipeError(f'adapter.targets: this model has no modules for "{section.targets}".', hint="List modules instead.")
        return keys
    in_layers = {id(module) for layer in model.layers for module in layer.modules()}
    outside = {name: module for name, module in model.named_modules() if _is_adaptable(module) and id(module) not in in_layers}
    candidates = layers | outside
    targets: dict[str, nn.Module] = {}
    for target in section.targets:
        matches = {name: module for name, module in candidates.items() if name == target or name.endswith(f".{target}")}
        if not matches:
            raise RecipeError(f"adapter.targets: this model has no layer named {target}.", hint=_target_hint(target, candidates))
        targets |= matches
    if section.kind == "dora":
        for name, module in sorted(targets.items()):
            if not isinstance(module, _LINEAR):
                raise RecipeError(f"adapter.targets: DoRA is for linear layers, not {name}.", hint='Use kind = "lora".')
    return sorted(targets)


def _is_adaptable(module: nn.Module) -> bool:
    """Whether ``module`` can have an adapter in mlx-lm's usual format. Modules with a method for it have their own format."""
    return isinstance(module, _ADAPTABLE) and not hasattr(module, "to_lora")


def _target_hint(target: str, candidates: dict[str, nn.Module]) -> str:
    names = sorted({name.rsplit(".", 1)[-1] for name in candidates})
    if target == "lm_head" and "embed_tokens" in names:
        return "Use embed_tokens, because the head is tied to the embedding."
    return suggest(target, names)
