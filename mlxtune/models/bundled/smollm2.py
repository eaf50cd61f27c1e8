"""Convert SmolLM2-135M-Instruct from GGUF to MLX's layout.

``mx.load`` reads the 4-bit weights directly into MLX's layout (group size 32; the embedding is 8-bit). The GGUF file's norm weights
are in float32, which would promote every hidden state; they are stored in float16 like the scales, which represents them exactly.
"""

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlxtune.core.files import write_json
from mlxtune.models.bundled.install import GGUF

_NAMES = [
    ("blk.", "model.layers."), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj"), ("ffn_down", "mlp.down_proj"), ("ffn_up", "mlp.up_proj"),
    ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
]  # fmt: skip
_HEADS = {"q_proj": 9, "k_proj": 3}
_GROUP = 32
_CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "num_hidden_layers": 30,
    "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "rms_norm_eps": 1e-5,
    "vocab_size": 49152, "rope_theta": 100000.0, "max_position_embeddings": 8192, "tie_word_embeddings": True, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def convert(source: Path, target: Path) -> None:
    loaded: Any
    metadata: Any
    loaded, metadata = mx.load(str(source / GGUF), return_metadata=True)
    weights = {}
    for name, array in loaded.items():
        for old, new in _NAMES:
            name = name.replace(old, new)
        heads = next((count for part, count in _HEADS.items() if part in name), 0)
        array = array.astype(mx.float16) if array.dtype == mx.float32 else array
        if heads:  # undo llama.cpp's permutation of the rows of q and k, which interleaves the rotary halves
            rows, *rest = array.shape
            array = array.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)
        weights[name] = array
    quantization: dict[str, Any] = {"group_size": _GROUP, "bits": 4}
    for name in [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]:
        bits = weights[f"{name}.weight"].shape[1] * 32 // (weights[f"{name}.scales"].shape[1] * _GROUP)
        if bits != 4:
            quantization[name] = {"group_size": _GROUP, "bits": bits}
    target.mkdir(parents=True)
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write_tokenizer(metadata, target)
    write_json(target / "config.json", _CONFIG | {"quantization": quantization, "quantization_config": quantization})


def _write_tokenizer(metadata: dict[str, Any], target: Path) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's token type for special tokens
    token_types = metadata["tokenizer.ggml.token_type"].tolist()
    special = [token for token, type in zip(tokens, token_types, strict=True) if type == control]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>", "model_max_length": 8192, "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }  # fmt: skip
    write_json(target / "tokenizer_config.json", settings)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
