"""Load a model on the compute path for this backend. This is the only place where Metal, CUDA and CPU differ.

On Metal and CUDA, a model runs as saved, with 4-bit kernels in bf16 or f16. MLX's CPU backend has no fast quantized kernels,
so on a CPU the 4-bit weights are dequantized once, and the model runs in float32.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import dequantize_model, load_model, load_tokenizer

from mlxtune.core.errors import ModelError
from mlxtune.models import gated_delta
from mlxtune.models.cpu import exp
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning.machine import CACHE_LIMIT, computes_natively, this_machine

Compute = Literal["native", "float32"]
Quantize = Literal[0, 4, 8]


@dataclass
class LoadedModel:
    """A model in memory. ``description`` names its weights and compute path; ``seconds`` is the load time."""

    source: ModelFolder
    model: nn.Module
    tokenizer: TokenizerWrapper
    compute: Compute
    description: str
    seconds: float

    @property
    def parameters(self) -> int:
        return sum(array.size for _, array in tree_flatten(self.model.parameters()))

    @property
    def memory_limit(self) -> int:
        """The memory in bytes that a run should stay within."""
        return memory_limit(this_machine().limit)

    @property
    def event(self) -> dict[str, Any]:
        """The fields of the event ``model.loaded``."""
        facts = {"path": self.description, "parameters": self.parameters, "seconds": self.seconds}
        return {"base": self.source.name, **facts, "limit": self.memory_limit}


def on_gpu() -> bool:
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def default_compute() -> Compute:
    """Return the compute path: ``native`` on a GPU, ``float32`` on a CPU unless :data:`~mlxtune.planning.machine.COMPUTE_VARIABLE` is set."""
    return "native" if computes_natively("gpu" if on_gpu() else "cpu") else "float32"


def load(source: ModelFolder, compute: Compute | None = None, quantize: Quantize = 0) -> LoadedModel:
    """Load ``source``, frozen and evaluated. ``compute`` overrides the default path, so that tests can cover the other one.

    ``quantize`` = 4 or 8 quantizes unquantized weights; the float32 path then computes on the same rounded values. Raises
    ``ModelError`` if mlx-lm does not support the architecture, or the weights do not match it or have a different bit width.
    """
    start = time.perf_counter()
    compute = compute or default_compute()
    if on_gpu():  # without this cap, free buffers grow up to 95% of the working set: they are reused only for similar sizes
        mx.set_cache_limit(CACHE_LIMIT)
        if mx.metal.is_available():  # keep the model wired, so that macOS does not page it out
            mx.set_wired_limit(memory_limit(0))
    try:
        model, config = load_model(source.folder, lazy=True)
        tokenizer = load_tokenizer(source.folder, eos_token_ids=source.eos_token_ids)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise ModelError(f"Cannot load {source.name}: {error}", hint="Check that mlx-lm supports its architecture.") from error
    bits = (config.get("quantization") or {}).get("bits")
    weights = f"{bits}-bit weights" if bits else "unquantized weights"
    if quantize and bits and bits != quantize:
        raise ModelError(f"{source.name} already has {bits}-bit weights.", hint="Remove model.quantize.")
    if quantize and not bits:
        quantize_weights(model, quantize)
        weights = f"unquantized weights, quantized to {quantize} bits on load"
    if compute == "float32":
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
    if not on_gpu() and compute == default_compute():  # otherwise, tests compare with MLX's own kernels
        exp.install()
    gated_delta.install()
    model.freeze()
    mx.eval(model.parameters())
    model.eval()
    device = "GPU" if on_gpu() else "CPU"
    arithmetic = f"computed in float32 on the {device}" if compute == "float32" else f"native on the {device}"
    return LoadedModel(source, model, tokenizer, compute, f"{weights}, {arithmetic}", time.perf_counter() - start)


def quantize_weights(model: nn.Module, bits: int) -> None:
    """Quantize the modules that mlx-lm's converter or the architecture's ``quant_predicate`` would, in groups of 64 or else 32."""
    own_predicate = getattr(model, "quant_predicate", None)

    def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        choice = own_predicate(path, module) if own_predicate else True
        settings: dict[str, Any] = choice if isinstance(choice, dict) else {}
        sizes = (settings.get("group_size", 64), 32)
        group = next((size for size in sizes if module.weight.shape[-1] % size == 0), None)
        return {"bits": bits, **settings, "group_size": group} if choice and group else False

    nn.quantize(model, class_predicate=predicate)


def memory_limit(fallback: int) -> int:
    """Return MLX's recommended working set size in bytes on a GPU, or ``fallback`` on a CPU."""
    if not on_gpu():
        return fallback
    info: dict[str, Any] = mx.device_info()
    return int(info.get("max_recommended_working_set_size") or fallback)
