"""Load a model on the compute path that suits the backend: the one place where Metal, CUDA and CPU differ.

On Metal and CUDA a model computes as it was saved: 4-bit kernels, bf16 or f16. MLX's CPU backend has no fast quantised
kernel, so there the same 4-bit values are dequantised once and computed in float32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import dequantize_model, load_model, load_tokenizer

from mlxtune.core.errors import ModelError
from mlxtune.models import cpu
from mlxtune.models.resolve import ModelFolder

Compute = Literal["native", "float32"]
Quantize = Literal[0, 4, 8]


@dataclass
class LoadedModel:
    """A model in memory. ``path`` says in words how it computes; ``seconds`` is what loading took."""

    source: ModelFolder
    model: nn.Module
    tokenizer: TokenizerWrapper
    compute: Compute
    path: str
    seconds: float

    @property
    def parameters(self) -> int:
        """How many numbers the model has, in its loaded form."""
        return sum(array.size for _, array in tree_flatten(self.model.parameters()))


def suitable() -> Compute:
    """The compute path for the device MLX uses: ``native`` on a GPU, ``float32`` on the CPU."""
    return "native" if mx.default_device().type == mx.DeviceType.gpu else "float32"


def load(source: ModelFolder, compute: Compute | None = None, quantize: Quantize = 0) -> LoadedModel:
    """Load ``source``, frozen and evaluated; ``compute`` overrides what suits the machine, for tests of the other side.

    ``quantize`` = 4 or 8 gives unquantised weights that many bits; the float32 path then computes on the same rounded values.
    Raises ``ModelError`` when mlx-lm does not know the architecture, the weights do not fit it, or they have other bits already.
    """
    start = time.perf_counter()
    compute = compute or suitable()
    try:
        model, config = load_model(source.folder, lazy=True)
        tokenizer = load_tokenizer(source.folder, eos_token_ids=config.get("eos_token_id"))
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise ModelError(f"{source.name} cannot be loaded: {error}", mend="Is its architecture one that mlx-lm knows?") from error
    bits = (config.get("quantization") or {}).get("bits")
    kind = f"{bits}-bit weights" if bits else "unquantised weights"
    if quantize and bits and bits != quantize:
        raise ModelError(
            f"{source.name} has {bits}-bit weights already, so it cannot be quantised to {quantize} bits.",
            mend="Leave model.quantize out, or use its unquantised version.",
        )
    if quantize and not bits:
        quantize_weights(model, quantize)
        kind = f"unquantised weights, quantised to {quantize} bits on load"
    if compute == "float32":
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
        if suitable() == "float32":
            cpu.adopt()
    model.freeze()
    mx.eval(model.parameters())
    model.eval()
    device = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
    path = f"{kind}, computed in float32 on the {device}" if compute == "float32" else f"{kind}, native on the {device}"
    return LoadedModel(source, model, tokenizer, compute, path, time.perf_counter() - start)


def quantize_weights(model: nn.Module, bits: int) -> None:
    """Quantise what mlx-lm's converter would, in groups of 64, or of 32 where a width does not divide by 64.

    Some architectures say which modules stay as they are or get bits of their own; their word goes.
    """
    own = getattr(model, "quant_predicate", None)

    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        wish = own(path, module) if own else True
        special: dict[str, Any] = wish if isinstance(wish, dict) else {}
        groups = (special.get("group_size", 64), 32)
        group = next((size for size in groups if module.weight.shape[-1] % size == 0), None)
        return {"bits": bits, **special, "group_size": group} if wish and group else False

    nn.quantize(model, class_predicate=how)


def memory_limit(fallback: int) -> int:
    """Bytes that MLX recommends to keep resident on this GPU, or ``fallback`` on a CPU."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return fallback
    facts: dict[str, Any] = mx.device_info()
    return int(facts.get("max_recommended_working_set_size") or fallback)
