"""A tiny random model of every architecture in the installed mlx-lm, and what training and evaluating it does.

``tools/architectures.py`` writes the results to ``docs/architectures.md``. None are written by hand: each is measured on the tiny
model, or is the refusal that a user would see.
"""

import importlib
import json
import pkgutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm.models
import numpy as np
from mlx.utils import tree_flatten
from tiny_architectures import ARCHITECTURES, SIZES, WINDOW

from mlxtune.core.errors import ModelError
from mlxtune.data.rows import Location
from mlxtune.models import families, gated_delta, generate, lora
from mlxtune.models.head import split_head
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.template import Encoded
from mlxtune.recipe import AdapterSection
from mlxtune.training import sft
from mlxtune.training.layer_stack import LayerStack

PREFIX = 2 * WINDOW  # longer than any sliding window here
STOP = 319
ROWS = [
    Encoded(str(at), Location(Path("rows"), at), np.array(tokens, np.int32), np.arange(len(tokens)) >= PREFIX + 2, len(tokens))
    for at, tokens in enumerate(
        [[(7 * place) % 300 for place in range(PREFIX)] + [at, *range(60 + at, 60 + at + 5 + 2 * at)] for at in range(3)]
    )
]

_TEXT: dict[str, Any] = SIZES | {
    "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "tie_word_embeddings": False,
    "attention_bias": False, "mlp_bias": False, "use_bias": False,
    # experts
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_shared_experts": 1, "num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_layer_freq": 1,
    # latent attention
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    # recurrent layers
    "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
_SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_PATTERN: dict[str, Any] = {"sliding_window": WINDOW, "sliding_window_pattern": 2}
_ROPE: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"}
_ROPES: dict[str, Any] = {"rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE}}
_LLAMA4_ROPE: dict[str, Any] = {
    "rope_parameters": _ROPE | {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64},
}  # fmt: skip
_GPT: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512, "n_ctx": 512, "n_inner": 64, "rotary_dim": 8}
_GRANITE: dict[str, Any] = {
    "logits_scaling": 3.0, "attention_multiplier": 0.25, "embedding_multiplier": 4.0, "residual_multiplier": 0.5,
}  # fmt: skip
_MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_conv_bias": True,
    "mamba_proj_bias": False, "mamba_d_ssm": 128, "mamba_expand": 2, "mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 16,
    "state_size": 16, "conv_kernel": 4, "use_conv_bias": True, "time_step_rank": 4, "n_groups": 1,
}  # fmt: skip
_LFM2: dict[str, Any] = ARCHITECTURES["lfm2"].config | {"num_dense_layers": 1, "use_expert_bias": True}
_INDEX: dict[str, Any] = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 8}
_KIMI: dict[str, Any] = {
    "linear_attn_config": {"kda_layers": [1], "full_attn_layers": [2], "num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4},
    "model_max_length": 512, "num_experts_per_token": 2,
}  # fmt: skip
_LONGCAT: dict[str, Any] = {
    "attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32,
    "zero_expert_num": 2, "num_layers": 2, "mla_scale_q_lora": True, "mla_scale_kv_lora": True, "ngram_vocab_size_ratio": 2,
    "emb_neighbor_num": 2, "emb_split_num": 2,
}  # fmt: skip
_GEMMA3N: dict[str, Any] = {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 320, "sliding_window": WINDOW,
    "rope_local_base_freq": 10000.0, "final_logit_softcapping": 3.0, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.95, 0, 0, 0], "hidden_size_per_layer_input": 16, "altup_num_inputs": 2,
    "altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0, "laurel_rank": 8, "intermediate_size": [64] * 4,
}  # fmt: skip
_PHI3SMALL_VOCABULARY = 100_352  # mlx-lm writes to fixed token IDs

# What each architecture needs in addition to ``_TEXT``
_OWN: dict[str, dict[str, Any]] = {
    "afm7": {"hidden_dim": 64, "num_layers": 3, "num_kv_reuse_layers": 1, "num_heads": 4, "num_kv_heads": 2},
    "afmoe": _SLIDING | {"num_dense_layers": 1},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"sliding_window": WINDOW, "sliding_window_layers": [0], "conv_window": 2},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_v3": {"layer_group_size": 2, "moe_shared_expert_intermediate_size": 32, "head_dim": 32},
    "cohere2": _PATTERN | {"logit_scale": 0.25},
    "deepseek_v41": _INDEX
    | {
        "num_hidden_layers": 3, "head_dim": 32, "o_groups": 2, "o_lora_rank": 16, "compress_ratios": [0, 4, 0], "hc_mult": 2,
        "hc_sinkhorn_iters": 2, "sliding_window": WINDOW, "kv_source_layer_ids": [1], "index_source_layer_ids": [1],
    },
    "dbrx": {
        "d_model": 64, "n_layers": 2, "n_heads": 4, "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "rope_scaling": {"type": "yarn", "factor": 1.0, "mscale_all_dim": 0.0, "original_max_position_embeddings": 512}
    },
    "deepseek_v32": _INDEX,
    "exaone": {"num_layers": 2},
    "exaone4": {"rope_scaling": None, "sliding_window": WINDOW, "sliding_window_pattern": "LG"},
    "exaone_moe": _SLIDING | {"is_moe_layer": [False, True]},
    "falcon_h1": _MAMBA,
    "gear": _SLIDING,
    "gemma3n": _GEMMA3N,
    "glm4": {"partial_rotary_factor": 0.5},
    "glm4_moe": {"partial_rotary_factor": 0.5, "rope_scaling": None, "use_qk_norm": True},
    "glm_moe_dsa": _INDEX | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "rope_parameters": _ROPE},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    "gpt_oss": {"sliding_window": WINDOW},
    "gptj": _GPT,
    "granitemoe": _GRANITE,
    "granitemoehybrid": _GRANITE | _MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "hunyuan": {
        "num_shared_expert": 1, "use_mixed_mlp_moe": True, "use_qk_norm": True, "use_cla": True, "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1.0},
    },
    "jamba": _MAMBA | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_k3": _KIMI | {"q_lora_rank": None},
    "kimi_linear": _KIMI,
    "laguna": _SLIDING,
    "lfm2-vl": _LFM2,
    "lfm2_moe": _LFM2,
    "lille-130m": _GPT | {"block_size": 512, "n_kv_heads": 2},
    "llama4": {
        "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 64, "num_hidden_layers": 4,
        "num_experts_per_tok": 1, "rope_scaling": None, "use_qk_norm": True,
    },
    "llama4_text": {"intermediate_size_mlp": 64, "no_rope_layers": [1, 0], "use_qk_norm": True},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": _LONGCAT,
    "mamba": _MAMBA | {"intermediate_size": 128},
    "mamba2": _MAMBA | {"intermediate_size": 128, "num_heads": 4, "head_dim": 32, "time_step_limit": [0.0, 100.0]},
    "mellum": _SLIDING | _ROPES,
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1], "moe_layer_freq": [0, 1], "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False, "sliding_window_size": WINDOW, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "layernorm_epsilon": 1e-5, "swa_rope_theta": 10000.0, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
        "swa_head_dim": 16, "swa_v_head_dim": 16, "partial_rotary_factor": 0.5, "n_shared_experts": None,
    },
    "minicpm": {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 4},
    "minicpm3": {
        "dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 4,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
        | {"original_max_position_embeddings": 512},
    },
    "minimax": {"shared_intermediate_size": 32, "rotary_dim": 8},
    "minimax_m3_vl": {
        "moe_layer_freq": [0, 1], "rotary_dim": 8, "dense_intermediate_size": 64, "shared_intermediate_size": 32,
    },
    "mistral4": _LLAMA4_ROPE,
    "muse_glimmer": _SLIDING,
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 1.0}},
        ]
    },
    "nemotron_h": _MAMBA | {"hybrid_override_pattern": ["M", "*", "-", "E"]},
    "olmo3": _SLIDING,
    "olmo_hybrid": {"linear_allow_neg_eigval": True, "layer_types": ["linear_attention", "full_attention"]},
    "openelm": {
        "num_transformer_layers": 2, "model_dim": 64, "ffn_dim_divisor": 32, "num_query_heads": [4, 4], "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 1.0],
    },
    "phi3small": {
        "dense_attention_every_n_layers": 2, "ff_intermediate_size": 64, "gegelu_limit": 20.0, "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 2, "blocksparse_vert_stride": 2, "vocab_size": _PHI3SMALL_VOCABULARY,
    },
    "phixtral": {"num_vocab": 320, "model_dim": 64, "num_heads": 4, "num_layers": 2, "rotary_dim": 8},
    "plamo": {"n_shared_head": 2},
    "plamo2": _MAMBA | {"hidden_size_per_head": 32, "full_attention_idx": []},
    "plamo3": _PATTERN,
    "qwen": {"kv_channels": 16},
    "qwen3_5_moe": ARCHITECTURES["qwen3_5"].inner,
    "qwen3_next": {"full_attention_interval": 2, "partial_rotary_factor": 0.25},
    "recurrent_gemma": {
        "conv1d_width": 4, "logits_soft_cap": 3.0, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"],
    },
    "rwkv7": {"head_dim": 16, "a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
    "solar_open": {"partial_rotary_factor": 0.5},
    "spark2_5": _SLIDING | _ROPES,
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "starcoder2": {"norm_epsilon": 1e-5},
    "step3p5": _SLIDING | {"num_attention_groups": 2, "moe_top_k": 2, "share_expert_dim": 32, "moe_layers_enum": "1"},
}  # fmt: skip

_WRAPPED = {  # architecture -> the model type of its ``text_config``
    "gemma3n": "gemma3n_text", "kimi_k25": "kimi_k2", "kimi_k3": "kimi_linear", "kimi_vl": "deepseek_v3", "lfm2-vl": "lfm2",
    "llama4": "llama4_text", "minimax_m3_vl": "minimax_m3", "pixtral": "mistral", "qwen2_vl": "qwen2_vl_text",
    "qwen3_5_moe": "qwen3_5_moe_text", "qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text",
}  # fmt: skip


def names() -> list[str]:
    """Return every architecture in the installed mlx-lm."""
    modules = (module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__))
    return sorted(name for name in modules if name in families.UNTRAINABLE or hasattr(_module(name), "Model"))


def config(name: str) -> dict[str, Any]:
    """Return the ``config.json`` of the tiny model of architecture ``name``."""
    if name in ARCHITECTURES:
        found = ARCHITECTURES[name].full_config
    elif name in _WRAPPED:
        found = {"model_type": name, "vocab_size": 320, "text_config": _TEXT | _OWN.get(name, {}) | {"model_type": _WRAPPED[name]}}
    else:
        found = _TEXT | _OWN.get(name, {}) | {"model_type": name}
    copied: dict[str, Any] = json.loads(json.dumps(found))
    return copied


def _module(name: str) -> Any:
    return importlib.import_module(f"mlx_lm.models.{name}")


def build(name: str, seed: int = 2) -> Any:
    """Return the tiny model of architecture ``name``, frozen and in evaluation mode. No parameter is constant."""
    module, arguments = _module(name), config(name)
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(arguments))
    if name.startswith("gemma3") and name != "gemma3n":
        getattr(model, "language_model", model).sanitize({})  # without separate head weights, the embedding is the head
    noisy = [
        (path, array + mx.random.normal(array.shape) * 0.05)
        for path, array in tree_flatten(model.parameters())
        if mx.issubdtype(array.dtype, mx.floating)
    ]
    model.load_weights(noisy, strict=False)
    model.freeze()
    model.eval()
    mx.eval(model.parameters())
    return model


@dataclass(frozen=True)
class FamilyResult:
    """What training and evaluating the tiny model of an architecture does, or why it is refused.

    ``losses`` are those of two steps, and ``kept`` the bytes that the first backward pass needs of the forward pass, each without and
    with gradient checkpointing. ``gradient_error`` is the largest relative difference between their gradients. ``runs_per_layer`` is how often a
    layer runs per step with it. ``answers`` is how answers are generated: ``together``, ``mlx-lm`` or ``one by one``.
    """

    name: str
    refused: str = ""
    losses: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    gradient_error: float = 0.0
    runs_per_layer: float = 0.0
    kept: tuple[int, int] = (0, 0)
    answers: str = ""

    @property
    def saved(self) -> float:
        """The fraction of these bytes that gradient checkpointing saves here."""
        return 1 - self.kept[1] / self.kept[0]


@dataclass(frozen=True)
class _Training:
    losses: tuple[float, ...]
    gradients: dict[str, mx.array]
    runs: float
    kept: int
    model: nn.Module
    adapter: dict[str, Any]


def measure(name: str) -> FamilyResult:
    """Train and evaluate the tiny model of architecture ``name``, unless it is refused.

    Raises ``AssertionError`` if the saved adapter does not reproduce the model, or answers or likelihoods differ from the model's own.
    """
    try:
        families.check_trainable(config(name), name)
    except ModelError as error:
        return FamilyResult(name, f"{error.message.partition(f'{name}: ')[2]} {error.hint}")
    plain, recomputed = (_train(name, checkpointed=checkpointed) for checkpointed in (False, True))
    errors = []
    for path, gradient in plain.gradients.items():
        size = mx.linalg.norm(gradient.flatten()).item()
        errors.append(mx.linalg.norm((recomputed.gradients[path] - gradient).flatten()).item() / max(size, 1e-3))
    _check_saved_adapter(name, plain)
    return FamilyResult(
        name,
        "",
        (plain.losses, recomputed.losses),
        max(errors),
        recomputed.runs,
        (plain.kept, recomputed.kept),
        _evaluate(plain.model),
    )


def _train(name: str, *, checkpointed: bool) -> _Training:
    """Train two steps with the default targets."""
    model = build(name)
    gated_delta.install()
    adapter = lora.add(model, AdapterSection(rank=4, alpha=8), seed=3)
    mx.random.seed(4)
    arrays = [(path, array + mx.random.normal(array.shape) * 0.05) for path, array in lora.adapter_arrays(model).items()]
    model.load_weights(arrays, strict=False)
    stack = LayerStack(model, split_head(model), checkpointed=checkpointed)
    batch = sft.collate(ROWS, range(len(ROWS)), PREFIX if stack.can_share_prefix() else 0)
    model.train()
    arrays_of_batch = batch.arrays()
    step = nn.value_and_grad(model, lambda: sft.loss_sum(stack, arrays_of_batch))
    optimizer = optim.SGD(1e-4)
    mx.eval(model.parameters(), arrays_of_batch)
    with _counted(model) as runs:
        before = mx.get_active_memory()
        first, gradients = step()
        mx.eval(first)
        kept = mx.get_active_memory() - before  # what the gradients still need
        mx.eval(gradients)
        calls = sum(runs) / stack.depth
    optimizer.update(model, gradients)
    second, _ = step()
    mx.eval(second, model.parameters())
    model.eval()
    passes = 1 + bool(batch.prefix is not None)
    return _Training((first.item(), second.item()), dict(tree_flatten(gradients)), calls / passes, kept, model, adapter)


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that gets a 1 for each call of a layer."""
    runs: list[int] = []
    originals = {kind: kind.__call__ for kind in {type(layer) for layer in model.layers}}

    def counting(call: Any) -> Any:
        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            runs.append(1)
            return call(self, *args, **kwargs)

        return counted

    try:
        for kind, call in originals.items():
            kind.__call__ = counting(call)  # type: ignore[method-assign]
        yield runs
    finally:
        for kind, call in originals.items():
            kind.__call__ = call  # type: ignore[method-assign]


def _check_saved_adapter(name: str, trained: _Training) -> None:
    tokens = mx.array(ROWS[0].tokens)[None]
    with tempfile.TemporaryDirectory() as folder:
        lora.save(Path(folder), lora.adapter_arrays(trained.model), trained.adapter)
        loaded = build(name)
        lora.load(loaded, Path(folder))
    assert mx.allclose(loaded(tokens), trained.model(tokens), atol=1e-4)


class _Numbers:
    """A tokenizer that writes token IDs."""

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def _evaluate(model: nn.Module) -> str:
    """Compare answers and likelihoods with those of the forward pass in training. Return how answers were generated."""
    head = split_head(model)

    def logits_of(tokens: list[int]) -> mx.array:
        return head.logits(head.backbone(mx.array([tokens]), None)[0])

    prompts = [[int(token) for token in row.tokens[:length]] for row, length in zip(ROWS, (36, 37, 38), strict=True)]
    tokenizer: Any = _Numbers()
    settings = generate.GenerationSettings(max_tokens=4, stops=frozenset({STOP}), batch_size=3)
    answers = generate.generate(model, tokenizer, [generate.PromptGroup(prompts, settings)])
    for prompt, answer in zip(prompts, answers, strict=True):
        expected: list[int] = []
        while len(expected) < 4 and (token := int(mx.argmax(logits_of([*prompt, *expected])[-1]).item())) != STOP:
            expected.append(token)
        assert answer.text == tokenizer.decode(expected)
    pairs = [(prompts[0], [5, 6]), (prompts[1], [7, 8, 9])]
    for (prompt, answer_tokens), nll in zip(pairs, negative_log_likelihoods(model, pairs, batch_size=2), strict=True):
        logits = logits_of([*prompt, *answer_tokens[:-1]])[-len(answer_tokens) :]
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        assert np.isclose(nll, -sum(logps[at, token].item() for at, token in enumerate(answer_tokens)), rtol=1e-3)
    if PrefixCache(model)(prompts) is not None:
        return "together"
    return "mlx-lm" if generate._batches_correctly(model) else "one by one"


def is_causal(model: nn.Module) -> bool:
    """Whether the last token changes no earlier logits."""
    one, two = (model(mx.array([[3, 9, 27, 81, 243, 5, 15, last]]))[0, :-1] for last in (45, 46))
    return bool(mx.allclose(one, two, atol=1e-4).item())


def results() -> Iterator[FamilyResult]:
    """Yield the result of every architecture."""
    return map(measure, names())


ANSWERS = {"together": "in batches, shared prefix", "mlx-lm": "in batches", "one by one": "one at a time"}


def line(result: FamilyResult) -> str:
    """Return ``result`` as a line of the table in ``docs/architectures.md``."""
    if result.refused:
        return f"| {result.name} | refused | | | {result.refused} |"
    return f"| {result.name} | yes | {'yes' if result.runs_per_layer > 1 else 'no'} | {ANSWERS[result.answers]} | |"
