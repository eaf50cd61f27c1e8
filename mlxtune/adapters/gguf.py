"""A fused Llama as one GGUF file, in 16 bits, by way of mlx-lm.

mlx-lm writes every tokenizer as SentencePiece without the order of its merges, with which llama.cpp cuts text in another way than the
model was trained on. So the tokenizer is written here, for the two kinds whose rules are known on both sides; others are refused.
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

from mlxtune.adapters.export import CONVERT
from mlxtune.adapters.fuse import copy_tokenizer
from mlxtune.core.errors import ModelError
from mlxtune.core.files import read_json, write_json
from mlxtune.models.resolve import ModelFolder, resolve

FILE = "model.gguf"
_NORMAL, _CONTROL, _ADDED, _UNUSED = 1, 3, 4, 5  # GGUF's types of tokens
# The split of Llama 3 (https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp: LLAMA_VOCAB_PRE_TYPE_LLAMA3).
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ARRAYS = (("self_attn.q_proj.weight", "num_attention_heads"), ("self_attn.k_proj.weight", "num_key_value_heads"))


def check(source: ModelFolder) -> None:
    """Raises ``ModelError`` with the reason when ``source`` has something that this file could not say."""
    config = source.config
    scaling = config.get("rope_scaling") or {}
    if scaling and scaling.get("type", scaling.get("rope_type")) not in ("linear", "default"):
        raise _refused("its positions are scaled in a way that mlx-lm does not write")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise _refused("it has biases, which mlx-lm does not put in llama.cpp's order")
    _split(source)


def write(model: nn.Module, config: Mapping[str, Any], source: ModelFolder, folder: Path) -> None:
    """Write ``model``, which is not quantised, as ``folder/model.gguf``. Raises ``ModelError`` as :func:`check` does."""
    config = {"num_key_value_heads": config["num_attention_heads"], **config}
    weights = {}
    for name, array in tree_flatten(model.parameters()):
        heads = next((config[key] for part, key in _ARRAYS if part in name), 0)
        array = stock.permute_weights(array, heads) if heads else array
        wide = array.ndim == 1  # llama.cpp wants norms in float32
        weights[stock.translate_weight_names(name)] = array.astype(mx.float32) if wide else array.astype(mx.float16)
    metadata = _metadata(config, source, weights["token_embd.weight"].shape[0])
    mx.save_gguf(str(folder / FILE), weights, metadata)


def read_back(folder: Path, source: ModelFolder, target: Path) -> ModelFolder:
    """What :func:`write` wrote to ``folder``, as a model folder in ``target``, so that it can be asked."""
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
    """What llama.cpp must know: mlx-lm's word on the architecture, ours on the tokenizer."""
    tokenizer = load_tokenizer(source.folder)
    nobody = SimpleNamespace(vocab_size=0, all_tokens=lambda: (), tokenizer=tokenizer)  # its list of tokens takes no holes
    found: dict[str, Any] = stock.prepare_metadata(dict(config), nobody)
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for key in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
        found[key] = mx.array(width, mx.uint32)
    tokens, types = _tokens(source, rows)
    del found["tokenizer.ggml.scores"]
    template = tokenizer.chat_template
    return found | {
        "general.name": config.get("_name_or_path") or source.name.rsplit("/", 1)[-1],
        "llama.vocab_size": mx.array(rows, mx.uint32),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split(source),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": mx.array(types, mx.int32),
        "tokenizer.ggml.merges": _merges(source),
        "tokenizer.ggml.add_bos_token": mx.array(_begins(source)),
        **({"tokenizer.chat_template": template} if isinstance(template, str) else {}),
    }


def _split(source: ModelFolder) -> str:
    """llama.cpp's name of how the tokenizer splits text before it merges. Raises ``ModelError`` when that is not known."""
    told = _tokenizer(source)
    before = told.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    match told.get("model", {}).get("type"), told.get("normalizer"), parts:
        case "BPE", None, [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]:
            return "smollm"
        case "BPE", None, [
            {"type": "Split", "pattern": {"Regex": pattern}, "invert": False},
            {"type": "ByteLevel", "use_regex": False},
        ]:
            if pattern == _LLAMA3:
                return "llama-bpe"
    raise _refused("its tokenizer is of a kind that mlx-lm writes so that llama.cpp would cut text in another way")


def _tokens(source: ModelFolder, rows: int) -> tuple[list[str], list[int]]:
    """Every token by its number, and GGUF's type of it; what the tokenizer leaves out of ``rows`` is unused."""
    told = _tokenizer(source)
    by_number = {number: (token, _NORMAL) for token, number in told["model"]["vocab"].items()}
    by_number |= {item["id"]: (item["content"], _CONTROL if item["special"] else _ADDED) for item in told.get("added_tokens", [])}
    if max(by_number) >= rows:
        raise _refused(f"its tokenizer has {max(by_number) + 1:,} tokens and its embedding {rows:,}")
    listed = [by_number.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(rows)]
    return [token for token, _ in listed], [kind for _, kind in listed]


def _merges(source: ModelFolder) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in _tokenizer(source)["model"]["merges"]]


def _begins(source: ModelFolder) -> bool:
    """Whether the tokenizer puts its first token before every text."""
    after = _tokenizer(source).get("post_processor") or {}
    return any(part.get("type") == "TemplateProcessing" for part in after.get("processors", [after]))


def _tokenizer(source: ModelFolder) -> dict[str, Any]:
    file = source.folder / "tokenizer.json"
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def _mlx_name(name: str) -> str:
    for old, new in (
        ("blk.", "model.layers."), ("ffn_gate", "mlp.gate_proj"), ("ffn_down", "mlp.down_proj"), ("ffn_up", "mlp.up_proj"),
        ("attn_q.", "self_attn.q_proj."), ("attn_k.", "self_attn.k_proj."), ("attn_v.", "self_attn.v_proj."),
        ("attn_output", "self_attn.o_proj"), ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"),
        ("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output.weight", "lm_head.weight"),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name


def _refused(why: str) -> ModelError:
    return ModelError(f"This base cannot be written as GGUF: {why}.", mend=CONVERT)
