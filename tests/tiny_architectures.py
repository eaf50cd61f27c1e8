"""Tiny random models of common architectures, built from mlx-lm's classes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_model import CHATML, write_tokenizer

WINDOW = 16  # of the architectures that have sliding-window layers

SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "rms_norm_eps": 1e-5, "vocab_size": 320, "max_position_embeddings": 4096, "rope_theta": 10000.0,
}  # fmt: skip
_SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "sliding_window_pattern": 2}
_QWEN3_5: dict[str, Any] = {
    "model_type": "qwen3_5_text", "tie_word_embeddings": True, "linear_num_value_heads": 2, "linear_num_key_heads": 1,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32, "full_attention_interval": 2,
}  # fmt: skip
_GEMMA4: dict[str, Any] = {
    "model_type": "gemma4_text", "num_hidden_layers": 4, "global_head_dim": 32, "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 32, "final_logit_softcapping": 3.0,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """``config`` adds to the default sizes in ``config.json``; ``shares_prefix`` tells whether rows can share a prefix."""

    config: dict[str, Any]
    shares_prefix: bool = True
    inner: dict[str, Any] = field(default_factory=dict)  # text_config of a wrapper model

    @property
    def full_config(self) -> dict[str, Any]:
        return SIZES | self.config | ({"text_config": SIZES | self.inner} if self.inner else {})


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture({"model_type": "llama", "tie_word_embeddings": False}),
    "smollm2": Architecture({"model_type": "llama", "tie_word_embeddings": True}),
    "smollm3": Architecture({"model_type": "smollm3", "no_rope_layer_interval": 2}),
    "mistral": Architecture({"model_type": "mistral", "tie_word_embeddings": False}),
    "ministral3": Architecture(
        {"model_type": "ministral3", "layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
        | {"rope_parameters": {"rope_theta": 10000.0, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64}},
        shares_prefix=False,
    ),
    "mistral3": Architecture({"model_type": "mistral3"}, inner={"model_type": "llama", "tie_word_embeddings": False}),
    "gemma": Architecture({"model_type": "gemma"}),
    "gemma2": Architecture({"model_type": "gemma2", "final_logit_softcapping": 3.0}),
    "gemma3_text": Architecture({"model_type": "gemma3_text", **_SLIDING}, shares_prefix=False),
    "gemma3": Architecture({"model_type": "gemma3"}, shares_prefix=False, inner={"model_type": "gemma3_text", **_SLIDING}),
    "gemma4_text": Architecture(_GEMMA4 | _SLIDING, shares_prefix=False),
    "gemma4": Architecture({"model_type": "gemma4"}, shares_prefix=False, inner=_GEMMA4 | _SLIDING),
    "qwen2": Architecture({"model_type": "qwen2", "tie_word_embeddings": True}),
    "qwen3": Architecture({"model_type": "qwen3", "tie_word_embeddings": False}),
    "qwen3_moe": Architecture(
        {"model_type": "qwen3_moe", "tie_word_embeddings": False, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1}
        | {"mlp_only_layers": [], "moe_intermediate_size": 32, "norm_topk_prob": True}
    ),
    "qwen3_5": Architecture({"model_type": "qwen3_5"}, shares_prefix=False, inner=_QWEN3_5),
    "phi3": Architecture({"model_type": "phi3", "tie_word_embeddings": False}),
    "phi": Architecture({"model_type": "phi", "layer_norm_eps": 1e-5}),
    "cohere": Architecture({"model_type": "cohere", "layer_norm_eps": 1e-5, "logit_scale": 0.25}),
    "granite": Architecture(
        {"model_type": "granite", "logits_scaling": 3.0, "attention_multiplier": 0.25, "embedding_multiplier": 4.0}
        | {"residual_multiplier": 0.5, "attention_bias": False, "mlp_bias": False}
    ),
    "granitemoehybrid": Architecture(
        {"model_type": "granitemoehybrid", "logits_scaling": 3.0, "attention_multiplier": 0.25, "embedding_multiplier": 4.0}
        | {"residual_multiplier": 0.5, "attention_bias": False, "layer_types": ["mamba", "attention"], "position_embedding_type": "nope"}
        | {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_conv_bias": True}
        | {"mamba_proj_bias": False},
        shares_prefix=False,
    ),
    "gpt_oss": Architecture(
        {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "rope_scaling": None}
        | {"layer_types": ["sliding_attention", "full_attention"]},
        shares_prefix=False,
    ),
    "olmo2": Architecture({"model_type": "olmo2", "tie_word_embeddings": False}),
    "lfm2": Architecture(
        {"model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 64}
        | {"block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False}
        | {"layer_types": ["conv", "full_attention"]},
        shares_prefix=False,
    ),
}  # fmt: skip


def make(folder: Path, name: str, *, bits: int = 4, dtype: str = "float32", **sizes: Any) -> Path:
    """Write the model ``name`` to ``folder`` in mlx-lm's layout. ``bits=0`` leaves it unquantized; ``sizes`` override its config."""
    import mlx.core as mx
    from mlx_lm.utils import _get_classes, quantize_model, save_config, save_model

    write_tokenizer(folder, template=CHATML, stop="<|im_end|>")
    config = json.loads(json.dumps(ARCHITECTURES[name].full_config | sizes))
    model_class, arguments = _get_classes(config)
    mx.random.seed(2)
    model = model_class(arguments.from_dict(json.loads(json.dumps(config))))
    if name.startswith("gemma3"):
        getattr(model, "language_model", model).sanitize({})  # without separate head weights, the embedding is the head
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    if bits:
        model, config = quantize_model(model, config, 32, bits)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder
