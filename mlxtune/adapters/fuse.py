"""Fuse an adapter into the weights of its base.

Every adapted module is dequantized, fused in float32 with mlx-lm's own formulas, and rounded once. Requantizing rounds it a second
time, with its base's quantization settings. Modules without an adapter are unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.utils import dequantize_model, load_model, save_config, save_model

from mlxtune.adapters.layout import read_layout
from mlxtune.adapters.publish import copy_tokenizer
from mlxtune.core.errors import MachineError
from mlxtune.core.text import one_line
from mlxtune.models import load, lora
from mlxtune.models.resolve import ModelFolder

_COPIED = ("*.json", "*.txt", "*.model", "*.jinja")  # the tokenizer and generation defaults, but no code
_WRITTEN = ("config.json", "model.safetensors.index.json", "mlxtune.json", "fidelity.json")
Config = dict[str, Any]
_QUANTIZED = nn.QuantizedLinear | nn.QuantizedEmbedding | QuantizedSwitchLinear


def fuse(
    source: ModelFolder, adapter: Path, *, requantize: bool, quantize: load.Quantize = 0, bits: int = 0
) -> tuple[nn.Module, Config]:
    """Return the base ``source`` with ``adapter`` fused into its weights (lazily), and its configuration.

    ``quantize`` is the number of bits to which its weights are quantized on load, as in training. With ``requantize``, adapted
    modules are requantized as before; otherwise the whole model is dequantized, and quantized again to ``bits`` if that is not 0.
    Raise ``ModelError`` if the adapter does not match the base.
    """
    model, config = load_model(source.folder, lazy=True)
    if quantize and not config.get("quantization"):
        load.quantize_weights(model, quantize)
        config = config | {"quantization": _quantization(model, quantize)}
    lora.load(model, adapter)
    trained = read_layout(adapter).modules  # mlx-lm wraps every listed module, even if there are no weights for it
    fused = []
    for name, module in model.named_modules():
        if "lora_a" in module:
            whole = _fused(module, requantize=requantize) if name in trained else lora.wrapped_module(module)
            mx.eval(whole.parameters())  # one at a time, because the whole model in float32 may not fit in memory
            fused.append((name, whole))
    model.update_modules(tree_unflatten(fused))
    if not requantize:
        model = dequantize_model(model)
        config = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config")}
        dtype = str(next(module.weight.dtype for _, module in model.named_modules() if isinstance(module, nn.Embedding)))
        config = config | {"torch_dtype": dtype.removeprefix("mlx.core.")}
    if bits:
        load.quantize_weights(model, bits)
        config = config | {"quantization": _quantization(model, bits)}
    return model, config


def dequantized(model: nn.Module) -> dict[str, mx.array]:
    """Return the weights of the quantized ``model`` by their names, dequantized in float32 (lazily)."""
    model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
    return dict(tree_flatten(dequantize_model(model).parameters()))


def write_folder(model: nn.Module, config: Config, source: ModelFolder, folder: Path, name: str, template: str = "") -> None:
    """Write the weights of ``model``, which loses them, configuration and tokenizer. Raise ``MachineError`` if the disk is full."""
    try:
        save_model(folder, model, donate_model=True)
    except RuntimeError as error:  # mlx's error for a full disk
        if "write" not in str(error):
            raise
        hint = "Check that the disk is not full."
        raise MachineError(f"{name} could not be written: {one_line(str(error), 120)}.", hint=hint) from error
    save_config(dict(config), folder / "config.json")
    copy_tokenizer(source, folder, template, _COPIED, without=_WRITTEN)


def _fused(module: nn.Module, *, requantize: bool) -> nn.Module:
    """Return the module under an adapter, with the adapter fused into its weight, in the original dtype."""
    inner: Any = lora.wrapped_module(module)
    packed = isinstance(inner, _QUANTIZED)
    dtype = inner.scales.dtype if packed else inner.weight.dtype
    if dtype == mx.uint8:  # the scales of mxfp4 and similar modes are bytes
        dtype = mx.bfloat16
    holder: Any = nn.Module()
    holder.inner = inner
    plain: Any = dequantize_model(holder).inner if packed else inner
    module["linear" if "linear" in module else "embedding"] = plain
    module.apply(lambda array: array.astype(mx.float32))
    whole: Any = module.fuse()
    whole.apply(lambda array: array.astype(dtype))
    if packed and requantize:
        return whole.to_quantized(inner.group_size, inner.bits, inner.mode)
    return whole


def _quantization(model: nn.Module, bits: int) -> dict[str, Any]:
    """Return the configuration entry for a model quantized on load, with exceptions by module name."""
    default = {"group_size": 64, "bits": bits}
    modules = {
        name: {"group_size": module.group_size, "bits": module.bits}
        for name, module in model.named_modules()
        if isinstance(module, _QUANTIZED)
    }
    return default | {name: settings for name, settings in modules.items() if settings != default}
