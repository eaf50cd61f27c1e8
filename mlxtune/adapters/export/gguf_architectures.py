"""The architectures that llama.cpp and mlx-lm share: names and layout of their tensors, and their metadata.

Sources: https://github.com/ggml-org/llama.cpp (``src/models``, ``conversion``) and the tables of the ``gguf`` package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf import MODEL_ARCH, GGUFWriter
from mlx.utils import tree_flatten

from mlxtune.core.errors import ModelError

Config = Mapping[str, Any]  # the text model's configuration, with mlx-lm's defaults
Array = np.ndarray[Any, Any]
_NO_FREQUENCY = 1e30  # a divisor so large that a pair of dimensions is not rotated


@dataclass(frozen=True)
class Placement:
    """Where a parameter of the MLX model is in the file, and in which order.

    ``rows`` and ``columns`` are the indices of the parameter's rows and columns in the order of the file, if it differs. ``store`` is applied to the
    values, and ``restore`` is its inverse.
    """

    tensor: str
    rows: Array | None = None
    columns: Array | None = None
    store: Callable[[Array], Array] = lambda values: values
    restore: Callable[[Array], Array] = lambda values: values

    def to_file(self, values: Array) -> Array:
        """Return a parameter's ``values`` as the file has them."""
        values = values if self.rows is None else values[self.rows]
        values = values if self.columns is None else values[:, self.columns]
        return self.store(values)

    def from_file(self, values: Array) -> Array:
        """Return a parameter's values from those of the file."""
        values = self.restore(values)
        values = values if self.columns is None else values[:, np.argsort(self.columns)]
        return values if self.rows is None else values[np.argsort(self.rows)]


@dataclass(frozen=True)
class Architecture:
    """How an architecture of mlx-lm is stored.

    ``describe`` writes the metadata that only this architecture has. ``place`` returns the placement of a parameter, given its name and that of the tensor.
    ``unsupported`` returns what llama.cpp cannot compute in this model, or ``""``. ``raw_merges`` tells that the tokenizer is stored with its merges
    instead of scores, although it is a SentencePiece tokenizer.
    """

    arch: MODEL_ARCH
    describe: Callable[[GGUFWriter, Config], None] = lambda writer, config: None
    place: Callable[[str, str, Config], Placement] = lambda name, tensor, config: Placement(tensor)
    unsupported: Callable[[Config], str] = lambda config: ""
    raw_merges: bool = False


def find(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of the model with this ``config.json``. Raise ``ModelError`` if llama.cpp cannot compute it."""
    kind = str(config.get("model_type", ""))
    kind = str(config["text_config"].get("model_type", kind)) if kind in WRAPPERS and "text_config" in config else kind
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"The architecture {kind or 'of this base'} cannot be written as GGUF.",
            hint=f"Supported: {', '.join(ARCHITECTURES)}.",
        )
    return ARCHITECTURES[kind]


def text_config(model: nn.Module, config: Mapping[str, Any]) -> Config:
    """Return the configuration of the text model in ``model``, with the defaults of mlx-lm."""
    args = getattr(getattr(model, "language_model", model), "args", None)
    text: dict[str, Any] = {
        **config,
        **config.get("text_config", {}),
        **{name: value for name, value in vars(args).items() if value is not None},
    }
    text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    return text


def placements(model: nn.Module, architecture: Architecture, config: Config) -> Iterator[tuple[str, Placement]]:
    """Yield the name and placement of every parameter of ``model``. Raise ``ModelError`` if the file has no place for one."""
    names = gguf.get_tensor_name_map(architecture.arch, config["num_hidden_layers"])
    for name, _ in tree_flatten(model.parameters()):
        if name.endswith((".scales", ".biases")):  # of a quantized matrix
            continue
        own = name.removeprefix("language_model.")
        own = own.removesuffix(".dt_bias") + ".dt_proj.bias" if own.endswith(".dt_bias") else own
        tensor = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if tensor is None:
            raise ModelError(f"llama.cpp has no tensor for {name} of this base.")
        yield name, architecture.place(own, tensor, config)


def rope_factors(model: nn.Module, config: Config) -> Array | None:
    """Return the divisors of RoPE's frequencies ``(head_dim / 2,)`` in layers with scaled frequencies, or ``None`` if there are none."""
    for layer in getattr(model, "language_model", model).model.layers:
        scaled: mx.array | None = getattr(getattr(getattr(layer, "self_attn", None), "rope", None), "_freqs", None)
        if scaled is not None:
            frequencies = np.array(scaled.astype(mx.float32))
            width = 2 * len(frequencies)
            plain = np.float64(rope_base(config)) ** (np.arange(0, width, 2) / width)
            return np.minimum(frequencies / plain, _NO_FREQUENCY).astype(np.float32)
    return None


def rope_base(config: Config) -> float:
    """Return the base of RoPE's frequencies in layers with full attention."""
    parameters: Mapping[str, Any] = config.get("rope_parameters") or {}
    parameters = parameters.get("full_attention", parameters)
    return float(parameters.get("rope_theta", config.get("rope_theta", 10_000.0)))


def describe(writer: GGUFWriter, architecture: Architecture, config: Config) -> None:
    """Write the metadata of the architecture."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads", config["num_attention_heads"]))
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", config.get("norm_eps")))
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope_base(config))
    writer.add_vocab_size(config["vocab_size"])
    architecture.describe(writer, config)


def _interleaved(name: str, tensor: str, config: Config) -> Placement:
    """Place the halves of each query and key head, which RoPE rotates against each other, alternately."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2], 0)
    if not heads:
        return Placement(tensor)
    width = config["head_dim"]
    return Placement(tensor, np.arange(heads * width).reshape(heads, 2, width // 2).swapaxes(1, 2).ravel())


def _norms_from_one(name: str, tensor: str, config: Config) -> Placement:
    """Place norms, whose weights are differences from 1 in MLX."""
    if not name.endswith("norm.weight"):
        return Placement(tensor)
    return Placement(tensor, store=lambda values: values + 1, restore=lambda values: values - 1)


def _rope_scaling(config: Config) -> Mapping[str, Any]:
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope_type(config: Config) -> str:
    scaling = _rope_scaling(config)
    return str(scaling.get("type") or scaling.get("rope_type") or "default")


def _linear_rope(writer: GGUFWriter, config: Config) -> None:
    if _rope_type(config) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(_rope_scaling(config)["factor"])


def _only_ropes(*names: str) -> Callable[[Config], str]:
    """Return a check that RoPE scaling is one of ``names``, or none, and that all layers have full attention."""

    def unsupported(config: Config) -> str:
        if _rope_type(config) not in ("default", *names):
            return f"its kind of RoPE scaling, {_rope_type(config)}"
        return ""

    return unsupported


def _full_attention(*names: str) -> Callable[[Config], str]:
    def unsupported(config: Config) -> str:
        if "sliding_attention" in (config.get("layer_types") or ()):
            return "layers with a sliding window in this architecture"
        return _only_ropes(*names)(config)

    return unsupported


def _attention_scale(layers_of_27b: int, *ropes: str) -> Callable[[Config], str]:
    """Return a check of a Gemma model, whose attention llama.cpp scales by the head's width, except for the one with ``layers_of_27b``."""

    def unsupported(config: Config) -> str:
        width = config["head_dim"]
        if config["num_hidden_layers"] == layers_of_27b:
            width = config["hidden_size"] / config["num_attention_heads"]
        if config["query_pre_attn_scalar"] != width:
            return f"its attention scale (query_pre_attn_scalar is {config['query_pre_attn_scalar']}, not {width:g})"
        return _only_ropes(*ropes)(config)

    return unsupported


def _gemma2(writer: GGUFWriter, config: Config) -> None:
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config.get("sliding_window", 4096))


def _gemma3(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    writer.add_rope_freq_base_swa(config["rope_local_base_freq"])
    _linear_rope(writer, config)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, _linear_rope, _interleaved, _full_attention("linear", "llama3")),
    "mistral": Architecture(MODEL_ARCH.LLAMA, _linear_rope, _interleaved, _full_attention("linear", "llama3")),
    "qwen2": Architecture(MODEL_ARCH.QWEN2, _linear_rope, unsupported=_full_attention("linear")),
    "qwen3": Architecture(MODEL_ARCH.QWEN3, _linear_rope, unsupported=_full_attention("linear")),
    "gemma2": Architecture(MODEL_ARCH.GEMMA2, _gemma2, _norms_from_one, _attention_scale(46)),
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, _gemma3, _norms_from_one, _attention_scale(62, "linear")),
}  # fmt: skip
"""Architectures by mlx-lm's ``model_type``."""
WRAPPERS = ("gemma3", "gemma4", "mistral3", "qwen3_5")
"""Architectures of mlx-lm whose text model is one of :data:`ARCHITECTURES`, named in ``text_config``."""
