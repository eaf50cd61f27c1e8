"""An adapter worked into the weights of its base: a model folder that needs no adapter.

Every adapted module is dequantised, changed and rounded once, in float32, by mlx-lm's own formulas; quantising it again rounds it a
second time, to the steps of its base. What has no adapter stays as it was, to the bit.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.utils import dequantize_model, load_model, save_config, save_model

from mlxtune.adapters.layout import read_layout
from mlxtune.models import load, lora
from mlxtune.models.load import Quantize
from mlxtune.models.resolve import ModelFolder

_QUANTISED = nn.QuantizedLinear | nn.QuantizedEmbedding | QuantizedSwitchLinear
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")  # what a model folder holds beside weights: no code
_OWN = ("config.json", "model.safetensors.index.json", "mlxtune.json", "fidelity.json")


def fuse(source: ModelFolder, adapter: Path, *, requantize: bool, quantize: Quantize = 0) -> tuple[nn.Module, dict[str, Any]]:
    """The base ``source`` with ``adapter`` in its weights, not evaluated, and its configuration.

    ``quantize`` are the bits that its weights get on load, as when the adapter was trained. With ``requantize`` the adapted modules are
    quantised again as they were; else nothing is quantised any more. Raises ``ModelError`` when the adapter does not fit.
    """
    model, config = load_model(source.folder, lazy=True)
    if quantize and not config.get("quantization"):
        load.quantize_weights(model, quantize)
        config = config | {"quantization": _quantization(model, quantize)}
    lora.load(model, adapter)
    learned = read_layout(adapter).modules  # mlx-lm wraps every module that is named, with weights for it or without
    fused = []
    for name, module in model.named_modules():
        if "lora_a" in module:
            whole = _fused(module, requantize=requantize) if name in learned else module[_inside(module)]
            mx.eval(whole.parameters())  # one at a time: float32 of a whole model may not fit
            fused.append((name, whole))
    model.update_modules(tree_unflatten(fused))
    if not requantize:
        model = dequantize_model(model)
        config = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config")}
        dtype = str(next(module.weight.dtype for _, module in model.named_modules() if isinstance(module, nn.Embedding)))
        config = config | {"torch_dtype": dtype.removeprefix("mlx.core.")}
    return model, config


def write(model: nn.Module, config: dict[str, Any], source: ModelFolder, folder: Path) -> None:
    """Write a model folder: weights, which ``model`` loses by it, configuration, and the base's tokenizer as it is."""
    save_model(folder, model, donate_model=True)
    save_config(dict(config), folder / "config.json")
    copy_tokenizer(source, folder)


def copy_tokenizer(source: ModelFolder, folder: Path) -> None:
    """Copy what lies beside the weights of ``source``: its tokenizer, template and defaults, and no code."""
    for pattern in _BESIDE:
        for file in source.folder.glob(pattern):
            if file.name not in _OWN:
                shutil.copyfile(file, folder / file.name)


def _fused(module: nn.Module, *, requantize: bool) -> nn.Module:
    """The module under an adapter, with the adapter in its weight, of the type that it had."""
    place = _inside(module)
    inner: Any = module[place]
    packed = isinstance(inner, _QUANTISED)
    dtype = inner.scales.dtype if packed else inner.weight.dtype
    if dtype == mx.uint8:  # the scales of mxfp4 and its like are bytes
        dtype = mx.bfloat16
    plain: Any = _plain(inner) if packed else inner
    module[place] = plain
    module.apply(lambda array: array.astype(mx.float32))
    whole: Any = module.fuse()
    whole.apply(lambda array: array.astype(dtype))
    if packed and requantize:
        return whole.to_quantized(inner.group_size, inner.bits, inner.mode)
    return whole


def _quantization(model: nn.Module, bits: int) -> dict[str, Any]:
    """What a configuration must say of a model that was quantised on load: those that are not as most are, by name."""
    usual = {"group_size": 64, "bits": bits}
    named = {
        name: {"group_size": module.group_size, "bits": module.bits}
        for name, module in model.named_modules()
        if isinstance(module, _QUANTISED)
    }
    return usual | {name: how for name, how in named.items() if how != usual}


def _inside(module: nn.Module) -> str:
    """Under what name an adapter keeps the module that it wraps."""
    return "linear" if "linear" in module else "embedding"


def _plain(inner: Any) -> nn.Module:
    """A quantised module as one that is not."""
    weight = mx.dequantize(inner.weight, inner.scales, inner.get("biases"), inner.group_size, inner.bits, inner.mode)
    bias = "bias" in inner
    made: Any
    if isinstance(inner, nn.QuantizedEmbedding):
        made = nn.Embedding(1, 1)
    elif isinstance(inner, QuantizedSwitchLinear):
        made = SwitchLinear(1, 1, 1, bias=bias)
    else:
        made = nn.Linear(1, 1, bias=bias)
    made.weight = weight
    if bias:
        made.bias = inner.bias
    return made
