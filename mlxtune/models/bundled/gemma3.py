"""Convert Gemma 3 270M, a base model, from GGUF to MLX's layout.

MLX has no kernels for the GGUF's quantization types (Q4_K_M: 4 to 8 bits), so its weights are dequantized and quantized again,
to 4 bits in groups of 64. The embedding, which is also the head, keeps 8 bits. The GGUF stores each norm weight plus 1.

The tokenizer has SentencePiece scores but no merges. Merges are generated as in Hugging Face's conversion: every split of a token
into two tokens, in the order of the tokens' scores.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlxtune.core.files import write_json
from mlxtune.models.bundled.install import GGUF, TEMPLATE

_MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm", "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
}  # fmt: skip
_EMBEDDING, _EMBEDDING_BITS = "model.embed_tokens", 8
_GROUP = 64
# Not in the GGUF's metadata, because llama.cpp sets them for every Gemma 3 model; values from Gemma 3's report (arXiv:2503.19786).
_LOCAL_ROPE_BASE = 10_000.0
_LAYERS_PER_GLOBAL_LAYER = 6

_CONTROL, _USER_DEFINED = 3, 4  # GGUF's token types
_SPACE = "▁"
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")


def convert(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source / GGUF)
    target.mkdir(parents=True)
    weights = dict(_weights(reader))
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokens, eos_ids = _write_tokenizer(reader, source, target)
    write_json(target / "config.json", _config(reader, len(tokens), eos_ids))


def _weights(reader: gguf.GGUFReader) -> Iterator[tuple[str, mx.array]]:
    for tensor in reader.tensors:
        *block, module, _ = tensor.name.split(".")
        name = (f"model.layers.{block[1]}." if block else "") + _MODULES[module]
        values = mx.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        if values.ndim == 1:
            arrays = {"weight": (values - 1).astype(mx.bfloat16)}
        else:
            bits = _EMBEDDING_BITS if name == _EMBEDDING else 4
            quantized = mx.quantize(values.astype(mx.bfloat16), group_size=_GROUP, bits=bits)
            arrays = dict(zip(("weight", "scales", "biases"), quantized, strict=True))
        mx.eval(arrays)
        for part, array in arrays.items():
            yield f"{name}.{part}", array


def _config(reader: gguf.GGUFReader, vocab_size: int, eos_ids: list[int]) -> dict[str, Any]:
    def value(key: str) -> Any:
        return reader.fields[key].contents()

    layers, head_dim = value("gemma3.block_count"), value("gemma3.attention.key_length")
    quantization = {"group_size": _GROUP, "bits": 4, _EMBEDDING: {"group_size": _GROUP, "bits": _EMBEDDING_BITS}}
    return {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": value("gemma3.embedding_length"),
        "num_hidden_layers": layers, "intermediate_size": value("gemma3.feed_forward_length"),
        "hidden_activation": "gelu_pytorch_tanh", "num_attention_heads": value("gemma3.attention.head_count"),
        "num_key_value_heads": value("gemma3.attention.head_count_kv"), "head_dim": head_dim, "query_pre_attn_scalar": head_dim,
        "rms_norm_eps": round(value("gemma3.attention.layer_norm_rms_epsilon"), 9), "vocab_size": vocab_size,
        "rope_theta": value("gemma3.rope.freq_base"), "rope_local_base_freq": _LOCAL_ROPE_BASE,
        "sliding_window": value("gemma3.attention.sliding_window"), "sliding_window_pattern": _LAYERS_PER_GLOBAL_LAYER,
        "layer_types": [f"{'sliding' if one % _LAYERS_PER_GLOBAL_LAYER else 'full'}_attention" for one in range(1, layers + 1)],
        "max_position_embeddings": value("gemma3.context_length"), "tie_word_embeddings": True,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"), "eos_token_id": eos_ids, "quantization": quantization,
        "quantization_config": quantization,
    }  # fmt: skip


def _write_tokenizer(reader: gguf.GGUFReader, source: Path, target: Path) -> tuple[list[str], list[int]]:
    """Write the tokenizer. Return its tokens, and the IDs of those that end a text or a turn."""
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    scores = reader.fields["tokenizer.ggml.scores"].contents()
    texts = reader.fields["tokenizer.ggml.tokens"].contents()
    # The GGUF has plain spaces and no scores for user-defined tokens; in SentencePiece they come first, with score 0.
    tokens = [text.replace(" ", _SPACE) if type == _USER_DEFINED else text for text, type in zip(texts, types, strict=True)]
    scores = [0.0 if type == _USER_DEFINED else score for score, type in zip(scores, types, strict=True)]
    ids = {token: id for id, token in enumerate(tokens)}
    merges = _merges(ids, [token for token, type in zip(tokens, types, strict=True) if type != _CONTROL], scores)
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A <bos>:1 $B:1", [("<bos>", ids["<bos>"])])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [token for token, type in zip(tokens, types, strict=True) if type in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, special=token in _SPECIAL, normalized=False) for token in added])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
        "unk_token": "<unk>", "model_max_length": reader.fields["gemma3.context_length"].contents(),
        "clean_up_tokenization_spaces": False, "chat_template": (source / TEMPLATE).read_text(encoding="utf-8"),
    }  # fmt: skip
    write_json(target / "tokenizer_config.json", settings)
    return tokens, [ids["<eos>"], ids["<end_of_turn>"]]


def _merges(ids: dict[str, int], tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return all pairs of tokens that form one of ``tokens``, in merge order."""
    merges = []
    for token in tokens:
        pairs = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
        merges += [(scores[ids[token]], pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    merges.sort(key=lambda merge: (merge[0], len(merge[1][0]), len(merge[1][1])), reverse=True)
    return [pair for _, pair in merges]


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)  # quantizes to the same bits on every machine
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
