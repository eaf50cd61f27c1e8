"""A real Llama whose next token depends only on the current one, so that its answers follow a script. An adapter changes the script."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
from tiny_model import write_tokenizer

HIDDEN = 320


def make_scripted(folder: Path, template: str, script: Mapping[str, str]) -> Path:
    """Write a model that follows each token in ``script`` with its value. Texts of more than one byte become tokens of their own.

    Embeddings are one-hot and the layer adds nothing, so that the head is the table of transitions.
    """
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import save_config, save_model

    words = tuple(word for word in dict.fromkeys([*script, *script.values()]) if len(word) > 1)
    write_tokenizer(folder, template=template, stop="<|im_end|>", specials=words)
    config = {
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": HIDDEN, "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    model = Model(ModelArgs.from_dict(config))
    head = mx.zeros((HIDDEN, HIDDEN))
    for token, following in _transitions(folder, script):
        head[following, token] = 1.0
    layer = model.model.layers[0]
    layer.self_attn.o_proj.weight = mx.zeros((HIDDEN, HIDDEN))
    layer.mlp.down_proj.weight = mx.zeros((HIDDEN, 32))
    model.model.embed_tokens.weight, model.lm_head.weight = mx.eye(HIDDEN), head
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def make_scripted_adapter(folder: Path, model: Path, script: Mapping[str, str]) -> Path:
    """Write an adapter that replaces the transitions in ``script``: one rank of the head's LoRA for each."""
    from mlxtune.models import lora

    changes = _transitions(model, script)
    a, b = mx.zeros((HIDDEN, len(changes))), mx.zeros((len(changes), HIDDEN))
    for rank, (token, following) in enumerate(changes):
        a[token, rank], b[rank, following] = 1.0, 2.0
    config = {
        "fine_tune_type": "lora", "num_layers": 1, "model": str(model),
        "lora_parameters": {"rank": len(changes), "scale": 1.0, "dropout": 0.0, "keys": ["lm_head"]},
    }  # fmt: skip
    lora.save(folder, {"lm_head.lora_a": a, "lm_head.lora_b": b}, config)
    return folder


def _transitions(model: Path, script: Mapping[str, str]) -> list[tuple[int, int]]:
    from mlx_lm.utils import load_tokenizer

    tokenizer = load_tokenizer(model)
    ids = {word: tokenizer.encode(word, add_special_tokens=False) for word in {*script, *script.values()}}
    assert all(len(tokens) == 1 for tokens in ids.values()), ids
    return [(ids[token][0], ids[following][0]) for token, following in script.items()]
