"""Write a fused Llama model as one 16-bit GGUF file, using mlx-lm.

mlx-lm writes every tokenizer as SentencePiece without its merge order, so llama.cpp would tokenize text differently than in
training. Therefore, this module writes the tokenizer for the two kinds that llama.cpp supports exactly, and rejects all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm import gguf as stock
from mlx_lm.utils import load_tokenizer

from mlxtune.adapters.export.safetensors import copy_tokenizer
from mlxtune.adapters.export.start import CONVERT
from mlxtune.core.errors import ModelError
from mlxtune.core.files import read_json, write_json
from mlxtune.models.resolve import ModelFolder, resolve

FILE = "model.gguf"
_NORMAL, _CONTROL, _ADDED, _UNUSED = 1, 3, 4, 5  # GGUF token types
# Llama 3's pre-tokenizer (https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp: LLAMA_VOCAB_PRE_TYPE_LLAMA3).
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ARRAYS = (("self_attn.q_proj.weight", "num_attention_heads"), ("self_attn.k_proj.weight", "num_key_value_heads"))


def check(source: ModelFolder) -> None:
    """Raise ``ModelError`` if ``source`` has a feature that the file cannot represent."""
    config = source.config
    scaling = config.get("rope_scaling") or {}
    if scaling and scaling.get("type", scaling.get("rope_type")) not in ("linear", "default"):
        raise _unsupported("mlx-lm cannot write its kind of RoPE scaling")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise _unsupported("mlx-lm does not write biases in the order that llama.cpp requires")
    _split(source)


def write(model: nn.Module, config: Mapping[str, Any], source: ModelFolder, folder: Path) -> None:
    """Write the dequantized ``model`` as ``folder/model.gguf``. Raise ``ModelError`` like :func:`check`."""
    config = {"num_key_value_heads": config["num_attention_heads"], **config}
    weights = {}
    for name, array in tree_flatten(model.parameters()):
        heads = next((config[key] for part, key in _ARRAYS if part in name), 0)
        array = stock.permute_weights(array, heads) if heads else array
        dtype = mx.float32 if array.ndim == 1 else mx.float16  # llama.cpp requires norms in float32
        weights[stock.translate_weight_names(name)] = array.astype(dtype)
    metadata = _metadata(config, source, weights["token_embd.weight"].shape[0])
    mx.save_gguf(str(folder / FILE), weights, metadata)


def read_back(folder: Path, source: ModelFolder, target: Path) -> ModelFolder:
    """Convert the file in ``folder`` back to a model folder in ``target``, so that MLX can run it."""
    config = {name: value for name, value in source.config.items() if name not in ("quantization", "quantization_config")}
    heads = {"num_key_value_heads": config["num_attention_heads"], **config}
    loaded: Any = mx.load(str(folder / FILE))
    weights = {}
    for name, array in loaded.items():
        own = _mlx_name(name)
        count = next((heads[key] for part, key in _ARRAYS if part in own), 0)
        if count:
            array = array.reshape(count, array.shape[0] // count // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        weights[own] = array
    target.mkdir(parents=True)
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    write_json(target / "config.json", config)
    copy_tokenizer(source, target)
    return resolve(str(target))


def _metadata(config: Mapping[str, Any], source: ModelFolder, rows: int) -> dict[str, Any]:
    """Return GGUF metadata: the architecture as written by mlx-lm, and the tokenizer as written by this module."""
    tokenizer = load_tokenizer(source.folder)
    no_tokens = SimpleNamespace(vocab_size=0, all_tokens=lambda: (), tokenizer=tokenizer)  # mlx-lm's token list cannot have gaps
    metadata: dict[str, Any] = stock.prepare_metadata(dict(config), no_tokens)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for key in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
        metadata[key] = mx.array(width, mx.uint32)
    tokens, types = _tokens(source, rows)
    del metadata["tokenizer.ggml.scores"]
    template = tokenizer.chat_template
    return metadata | {
        "general.name": config.get("_name_or_path") or source.name.rsplit("/", 1)[-1],
        "llama.vocab_size": mx.array(rows, mx.uint32),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split(source),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": mx.array(types, mx.int32),
        "tokenizer.ggml.merges": _merges(source),
        "tokenizer.ggml.add_bos_token": mx.array(_adds_bos(source)),
        **({"tokenizer.chat_template": template} if isinstance(template, str) else {}),
    }


def _split(source: ModelFolder) -> str:
    """Return llama.cpp's name for the pre-tokenizer. Raise ``ModelError`` if it is unknown."""
    tokenizer = _tokenizer(source)
    pre_tokenizer = tokenizer.get("pre_tokenizer") or {}
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    match tokenizer.get("model", {}).get("type"), tokenizer.get("normalizer"), parts:
        case "BPE", None, [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]:
            return "smollm"
        case "BPE", None, [
            {"type": "Split", "pattern": {"Regex": pattern}, "invert": False},
            {"type": "ByteLevel", "use_regex": False},
        ]:
            if pattern == _LLAMA3:
                return "llama-bpe"
    raise _unsupported("llama.cpp would split text differently than its tokenizer does")


def _tokens(source: ModelFolder, rows: int) -> tuple[list[str], list[int]]:
    """Return ``rows`` tokens and their GGUF types. IDs that the tokenizer does not use are marked as unused."""
    tokenizer = _tokenizer(source)
    by_id = {id: (token, _NORMAL) for token, id in tokenizer["model"]["vocab"].items()}
    by_id |= {item["id"]: (item["content"], _CONTROL if item["special"] else _ADDED) for item in tokenizer.get("added_tokens", [])}
    if max(by_id) >= rows:
        raise _unsupported(f"its tokenizer has {max(by_id) + 1:,} tokens but its embedding has only {rows:,}")
    tokens = [by_id.get(id, (f"[PAD{id}]", _UNUSED)) for id in range(rows)]
    return [token for token, _ in tokens], [kind for _, kind in tokens]


def _merges(source: ModelFolder) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in _tokenizer(source)["model"]["merges"]]


def _adds_bos(source: ModelFolder) -> bool:
    """Whether the tokenizer starts every text with its BOS token."""
    after = _tokenizer(source).get("post_processor") or {}
    return any(part.get("type") == "TemplateProcessing" for part in after.get("processors", [after]))


def _tokenizer(source: ModelFolder) -> dict[str, Any]:
    file = source.folder / "tokenizer.json"
    tokenizer: dict[str, Any] = read_json(file) if file.is_file() else {}
    return tokenizer


def _mlx_name(name: str) -> str:
    for old, new in (
        ("blk.", "model.layers."), ("ffn_gate", "mlp.gate_proj"), ("ffn_down", "mlp.down_proj"), ("ffn_up", "mlp.up_proj"),
        ("attn_q.", "self_attn.q_proj."), ("attn_k.", "self_attn.k_proj."), ("attn_v.", "self_attn.v_proj."),
        ("attn_output", "self_attn.o_proj"), ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"),
        ("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output.weight", "lm_head.weight"),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name


def _unsupported(reason: str) -> ModelError:
    return ModelError(f"This base cannot be written as GGUF: {reason}.", hint=CONVERT)
