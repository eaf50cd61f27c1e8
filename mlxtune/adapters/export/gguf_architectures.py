"""The architectures that llama.cpp and mlx-lm share: names and layout of their tensors, and their metadata.

Sources: https://github.com/ggml-org/llama.cpp (``src/models``, ``conversion``) and the tables of the ``gguf`` package.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf import MODEL_ARCH
from mlx.utils import tree_flatten

from mlxtune.core.errors import ModelError

Config = Mapping[str, Any]  # the text model's configuration, with mlx-lm's defaults
Array = np.ndarray[Any, Any]
_NO_FREQUENCY = 1e30  # a divisor so large that a pair of dimensions is not rotated


@dataclass(frozen=True)
class Placement:
    """The location and order of an MLX model's parameter in the file."""

    tensor: str
    shape: tuple[int, ...] = ()  # in the file, if it differs in more than dimensions of 1
    rows: Array | None = None  # the indices of the parameter's rows in the order of the file, if that differs
    columns: Array | None = None
    store: Callable[[Array], Array] = lambda values: values
    restore: Callable[[Array], Array] = lambda values: values  # the inverse of ``store``

    def to_file(self, values: Array) -> Array:
        """Return a parameter's ``values`` as the file has them."""
        values = values if self.rows is None else values[self.rows]
        values = values if self.columns is None else values[:, self.columns]
        return self.store(values).reshape(self.shape or values.shape)

    def from_file(self, values: Array) -> Array:
        """Return a parameter's values from those of the file."""
        values = self.restore(values)
        values = values if self.columns is None else values[:, np.argsort(self.columns)]
        return values if self.rows is None else values[np.argsort(self.rows)]


@dataclass(frozen=True)
class Architecture:
    """How an architecture of mlx-lm is stored."""

    arch: MODEL_ARCH
    metadata: Callable[[Config], Config] = lambda config: {}  # that only it has
    place: Callable[[str, str, Config], Placement] = lambda name, tensor, config: Placement(tensor)  # of the parameter ``name``
    unsupported: Callable[[Config], str] = lambda config: ""  # what llama.cpp cannot compute in this model
    settings: Callable[[Config], Config] = lambda config: {}  # that differ by layer, or have other names in mlx-lm
    rope_factors: tuple[str, ...] = ("rope_freqs.weight",)  # tensors with the divisors of RoPE's frequencies
    raw_merges: bool = False  # a SentencePiece tokenizer is stored with its merges instead of scores


def find(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of the model with this ``config.json``. Raise ``ModelError`` if llama.cpp cannot compute it."""
    kind = str(config.get("model_type", ""))
    kind = str(config["text_config"].get("model_type", kind)) if kind in WRAPPERS and "text_config" in config else kind
    if kind not in ARCHITECTURES:
        hint = f"Fuse it for MLX (mlxtune export mlx), or use a base that GGUF supports: {', '.join(ARCHITECTURES)}."
        raise ModelError(f"The architecture {kind or 'of this base'} cannot be written as GGUF.", hint=hint)
    return ARCHITECTURES[kind]


def not_as_gguf(reason: str) -> ModelError:
    """Return the error for a base that cannot be written as GGUF."""
    return ModelError(f"This base cannot be written as GGUF: {reason}.")


def text_config(model: nn.Module, architecture: Architecture, config: Mapping[str, Any]) -> Config:
    """Return the configuration of the text model in ``model``, with the defaults of mlx-lm."""
    args = getattr(getattr(model, "language_model", model), "args", None)
    text: dict[str, Any] = {
        **config,
        **config.get("text_config", {}),
        **{name: value for name, value in vars(args).items() if value is not None},
    }
    text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    return {**text, **architecture.settings(text)}


def placements(model: nn.Module, architecture: Architecture, config: Config) -> Iterator[tuple[str, Placement]]:
    """Yield the name and placement of every parameter of ``model``. Raise ``ModelError`` if the file has no place for one."""
    names = gguf.get_tensor_name_map(architecture.arch, config["num_hidden_layers"])
    for name, _ in tree_flatten(model.parameters()):
        if name.endswith((".scales", ".biases")):  # these belong to a quantized matrix
            continue
        own = name.removeprefix("language_model.")
        own = own.removesuffix(".dt_bias") + ".dt_proj.bias" if own.endswith(".dt_bias") else own
        tensor = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if tensor is None:
            raise not_as_gguf(f"llama.cpp has no tensor for {name}")
        yield name, architecture.place(own, tensor, config)


def rope_factors(model: nn.Module, config: Config) -> Array | None:
    """Return the divisors of RoPE's frequencies ``(rotated / 2,)`` in layers with scaled frequencies, or ``None`` if there are none.

    YaRN's frequencies are not among them: llama.cpp computes them itself.
    """
    if _rope_type(config) == "yarn":
        return None
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


def metadata(architecture: Architecture, config: Config) -> Config:
    """Return the model's metadata. Its names are those of methods of ``GGUFWriter``, without ``add_``."""
    width, heads = config["head_dim"], config["num_attention_heads"]
    return {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"], "head_count": heads,
        "head_count_kv": config.get("num_key_value_heads", heads), "key_length": width, "value_length": width,
        "layer_norm_rms_eps": config["rms_norm_eps"], "rope_dimension_count": int(width * config.get("partial_rotary_factor", 1.0)),
        "rope_freq_base": rope_base(config), "vocab_size": config["vocab_size"], **architecture.metadata(config),
    }  # fmt: skip


def _interleaved(name: str, tensor: str, config: Config) -> Placement:
    """Place the halves of each query and key head, which RoPE rotates against each other, alternately."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2], 0)
    if not heads:
        return Placement(tensor)
    width = config["head_dim"]
    return Placement(tensor, rows=np.arange(heads * width).reshape(heads, 2, width // 2).swapaxes(1, 2).ravel())


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


def _linear_rope(config: Config) -> Config:
    if _rope_type(config) != "linear":
        return {}
    return {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": _rope_scaling(config)["factor"]}


def _only_ropes(*names: str, sliding: bool = True) -> Callable[[Config], str]:
    """Return a check that RoPE scaling is one of ``names``, or none, and that no layer has a ``sliding`` window unless it may."""

    def unsupported(config: Config) -> str:
        if not sliding and "sliding_attention" in (config.get("layer_types") or ()):
            return "layers with a sliding window in this architecture"
        return "" if _rope_type(config) in ("default", *names) else f"its kind of RoPE scaling, {_rope_type(config)}"

    return unsupported


def _attention_scale(layers_of_27b: int, *ropes: str) -> Callable[[Config], str]:
    """Return a check of a Gemma model: llama.cpp scales attention by the head's width, except in the one with ``layers_of_27b`` layers."""

    def unsupported(config: Config) -> str:
        width = config["head_dim"]
        if config["num_hidden_layers"] == layers_of_27b:
            width = config["hidden_size"] / config["num_attention_heads"]
        if config["query_pre_attn_scalar"] != width:
            return f"its attention scale (query_pre_attn_scalar is {config['query_pre_attn_scalar']}, not {width:g})"
        return _only_ropes(*ropes)(config)

    return unsupported


def _gemma2(config: Config) -> Config:
    return {
        "attn_logit_softcapping": config["attn_logit_softcapping"], "sliding_window": config.get("sliding_window", 4096),
        "final_logit_softcapping": config["final_logit_softcapping"],
    }  # fmt: skip


def _gemma3(config: Config) -> Config:
    window, pattern, base = config["sliding_window"], config["sliding_window_pattern"], config["rope_local_base_freq"]
    return {"sliding_window": window, "sliding_window_pattern": pattern, "rope_freq_base_swa": base, **_linear_rope(config)}


def _gemma4(config: Config) -> Config:
    width, narrow, sliding = config["global_head_dim"], config["head_dim"], config["rope_parameters"]["sliding_attention"]
    return {
        "key_length": width, "value_length": width, "rope_dimension_count": width, "key_length_swa": narrow, "value_length_swa": narrow,
        "rope_dimension_count_swa": int(narrow * sliding.get("partial_rotary_factor", 1.0)),
        "rope_freq_base_swa": sliding["rope_theta"], "sliding_window": config["sliding_window"],
        "sliding_window_pattern": [kind == "sliding_attention" for kind in config["layer_types"]],
        "shared_kv_layers": config["num_kv_shared_layers"],
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"] or 0,
        "final_logit_softcapping": config["final_logit_softcapping"],
    }  # fmt: skip


def _gemma4_settings(config: Config) -> Config:
    layers, shared = config["num_hidden_layers"], config["num_kv_shared_layers"]
    settings: dict[str, Any] = {}
    if config["use_double_wide_mlp"] and shared:
        width = config["intermediate_size"]
        settings["intermediate_size"] = [width * (1 + (layer >= layers - shared)) for layer in range(layers)]
    if config["attention_k_eq_v"] and config.get("num_global_key_value_heads"):
        heads = {"sliding_attention": config["num_key_value_heads"], "full_attention": config["num_global_key_value_heads"]}
        settings["num_key_value_heads"] = [heads[kind] for kind in config["layer_types"]]
    return settings


def _yarn(config: Config) -> Config:
    scaling = _rope_scaling(config)
    return {
        "rope_scaling_type": gguf.RopeScalingType.YARN, "rope_scaling_factor": scaling["factor"],
        "rope_scaling_orig_ctx_len": scaling["original_max_position_embeddings"],
        "rope_scaling_yarn_beta_fast": scaling.get("beta_fast", 32.0), "rope_scaling_yarn_beta_slow": scaling.get("beta_slow", 1.0),
        "rope_scaling_yarn_log_mul": scaling.get("mscale_all_dim", 0.0), "attn_temperature_scale": scaling["llama_4_scaling_beta"],
    }  # fmt: skip


def _ministral3_unsupported(config: Config) -> str:
    if _rope_type(config) != "yarn":
        return f"RoPE scaling {_rope_type(config)} in Ministral"
    return _only_ropes("yarn", sliding=False)(config)


def _phi3(config: Config) -> Config:
    original, longest = config["original_max_position_embeddings"], config["max_position_embeddings"]
    values = {"rope_scaling_orig_ctx_len": original, "sliding_window": config.get("sliding_window") or 0}
    if _rope_type(config) in ("longrope", "su"):
        values["rope_scaling_attn_factors"] = math.sqrt(1 + math.log(max(longest / original, 1)) / math.log(original))
    return values


def _smollm3_unsupported(config: Config) -> str:
    if any(bool(rotates) != ((layer + 1) % 4 != 0) for layer, rotates in enumerate(config["no_rope_layers"])):
        return "an interval other than 4 between layers without RoPE in this architecture"
    return _only_ropes("linear", sliding=False)(config)


def _granite(config: Config) -> Config:
    return {
        "attention_scale": config["attention_multiplier"], "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"], "logit_scale": config["logits_scaling"],
    }  # fmt: skip


def _granite_hybrid(config: Config) -> Config:
    heads = config["mamba_n_heads"]
    return {
        **_granite(config), "rope_scaling_finetuned": config["position_embedding_type"] != "nope",
        "ssm_conv_kernel": config["mamba_d_conv"], "ssm_state_size": config["mamba_d_state"],
        "ssm_group_count": config["mamba_n_groups"], "ssm_inner_size": heads * config["mamba_d_head"], "ssm_time_step_rank": heads,
    }  # fmt: skip


def _granite_hybrid_place(name: str, tensor: str, config: Config) -> Placement:
    heads, groups = config["mamba_n_heads"], config["mamba_n_groups"]
    if name.endswith("A_log"):
        return Placement(tensor, (heads, 1), store=_decay, restore=_log_of_decay)
    if name.endswith("mamba.D"):
        return Placement(tensor, (heads, 1))
    if name.endswith("mamba.norm.weight"):
        return Placement(tensor, (groups, heads * config["mamba_d_head"] // groups))
    return _interleaved(name, tensor, {**config, "num_key_value_heads": max(config["num_key_value_heads"])})


def _only_in(kind: str) -> Callable[[Config], Config]:
    """Return the number of key and value heads in each layer: none in layers that are not of this ``kind``."""
    return lambda config: {"num_key_value_heads": [config["num_key_value_heads"] * (one == kind) for one in config["layer_types"]]}


def _lfm2_settings(config: Config) -> Config:
    width = config["block_ff_dim"]
    if config["block_auto_adjust_ff_dim"]:
        multiple = config["block_multiple_of"]
        width = int(config["block_ffn_dim_multiplier"] * int(2 * width / 3))
        width = multiple * math.ceil(width / multiple)
    return {"rms_norm_eps": config["norm_eps"], "intermediate_size": width, **_only_in("full_attention")(config)}


def _qwen35(config: Config) -> Config:
    heads = config["linear_num_value_heads"]
    return {
        "ssm_conv_kernel": config["linear_conv_kernel_dim"], "ssm_state_size": config["linear_key_head_dim"],
        "ssm_group_count": config["linear_num_key_heads"], "ssm_time_step_rank": heads,
        "ssm_inner_size": heads * config["linear_value_head_dim"], "full_attention_interval": config["full_attention_interval"],
        "rope_dimension_sections": [*config["rope_parameters"].get("mrope_section", [11, 11, 10]), 0],
    }  # fmt: skip


def _qwen35_place(name: str, tensor: str, config: Config) -> Placement:
    """Place value heads by their number within a group of one key head, and then by group, as llama.cpp requires."""
    if "linear_attn." not in name:
        return Placement(tensor)
    groups, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    width, keys = config["linear_value_head_dim"], 2 * groups * config["linear_key_head_dim"]
    order = np.arange(heads).reshape(groups, heads // groups).T.ravel()
    values = (order[:, None] * width + np.arange(width)).ravel()
    part = name.partition("linear_attn.")[2].partition(".")[0]
    if part in ("in_proj_qkv", "conv1d"):
        return Placement(tensor, rows=np.concatenate([np.arange(keys), keys + values]))
    if part == "in_proj_z":
        return Placement(tensor, rows=values)
    if part == "A_log":
        return Placement(tensor, rows=order, store=_decay, restore=_log_of_decay)
    if part in ("in_proj_a", "in_proj_b", "dt_proj"):
        return Placement(tensor, rows=order)
    return Placement(tensor, columns=values) if part == "out_proj" else Placement(tensor)


def _decay(logs: Array) -> Array:
    return -np.exp(logs)


def _log_of_decay(values: Array) -> Array:
    return np.log(-values)


ARCHITECTURES: dict[str, Architecture] = {  # architectures by mlx-lm's `model_type`
    "llama": Architecture(MODEL_ARCH.LLAMA, _linear_rope, _interleaved, _only_ropes("linear", "llama3", sliding=False)),
    "mistral": Architecture(MODEL_ARCH.LLAMA, _linear_rope, _interleaved, _only_ropes("linear", "llama3", sliding=False)),
    "ministral3": Architecture(MODEL_ARCH.MISTRAL3, _yarn, _interleaved, _ministral3_unsupported),
    "qwen2": Architecture(MODEL_ARCH.QWEN2, _linear_rope, unsupported=_only_ropes("linear", sliding=False)),
    "qwen3": Architecture(MODEL_ARCH.QWEN3, _linear_rope, unsupported=_only_ropes("linear", sliding=False)),
    "qwen3_5_text": Architecture(MODEL_ARCH.QWEN35, _qwen35, _qwen35_place, _only_ropes()),
    "gemma2": Architecture(MODEL_ARCH.GEMMA2, _gemma2, _norms_from_one, _attention_scale(46)),
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, _gemma3, _norms_from_one, _attention_scale(62, "linear")),
    "gemma4_text": Architecture(
        MODEL_ARCH.GEMMA4, _gemma4,
        lambda name, tensor, config: Placement(f"{tensor}.weight" if name.endswith("layer_scalar") else tensor),
        lambda config: "experts in this architecture" if config["enable_moe_block"] else "", _gemma4_settings, raw_merges=True,
    ),
    "smollm3": Architecture(MODEL_ARCH.SMOLLM3, _linear_rope, _interleaved, _smollm3_unsupported),
    "phi3": Architecture(
        MODEL_ARCH.PHI3, _phi3, unsupported=_only_ropes("longrope", "su"),
        rope_factors=("rope_factors_long.weight", "rope_factors_short.weight"),  # mlx-lm has the long ones at every length
    ),
    "granite": Architecture(MODEL_ARCH.GRANITE, _granite, _interleaved, _only_ropes(sliding=False)),
    "granitemoehybrid": Architecture(
        MODEL_ARCH.GRANITE_HYBRID, _granite_hybrid, _granite_hybrid_place,
        lambda config: "experts in this architecture" if config.get("num_local_experts") else _only_ropes()(config),
        _only_in("attention"),
    ),
    "lfm2": Architecture(
        MODEL_ARCH.LFM2, lambda config: {"shortconv_l_cache": config["conv_L_cache"]}, unsupported=_only_ropes(),
        settings=_lfm2_settings,
    ),
}  # fmt: skip
# Architectures of mlx-lm whose text model is one of `ARCHITECTURES`, named in `text_config`.
WRAPPERS = ("gemma3", "gemma4", "mistral3", "qwen3_5")
