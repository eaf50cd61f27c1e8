"""A tiny random model with a byte tokenizer, and data for it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny(
    folder: Path,
    *,
    bits: int = 0,
    template: str = CHATML,
    stop: str = "<|im_end|>",
    specials: tuple[str, ...] = (),
    texts: Sequence[str] = (),
) -> Path:
    """Write a tiny model. ``bits`` quantizes it; ``template``, ``stop`` and ``specials`` change its chat format.

    With ``texts``, their frequent words are tokens, so that similar rows have realistic lengths; otherwise every byte is a token.
    """
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_config, save_model

    vocabulary = write_tokenizer(folder, template=template, stop=stop, specials=specials, texts=texts)
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": max(320, vocabulary), "tie_word_embeddings": True, "max_position_embeddings": 2048,
    }  # fmt: skip
    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    if bits:
        model, config = quantize_model(model, config, 32, bits)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def write_tokenizer(
    folder: Path,
    *,
    template: str,
    stop: str,
    specials: tuple[str, ...] = (),
    plain: tuple[str, ...] = (),
    texts: Sequence[str] = (),
) -> int:
    """Write a byte-level tokenizer, with tokens for the frequent words of ``texts``; return its vocabulary size.

    ``specials`` are further control tokens, and ``plain`` further tokens that are not control tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False))
    names = dict.fromkeys(["<|im_start|>", "<|im_end|>", stop, *specials])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.add_tokens(list(plain))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": stop, "pad_token": stop, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def write_chat(path: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        answer = json.dumps({"category": "abc"[number % 3], "reply": "ok " * (1 + number % 5)})
        rows.append({"messages": [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer}]})
    return write_rows(path, rows)
