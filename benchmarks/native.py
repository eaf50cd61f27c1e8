"""The compiled 16-bit path on 4-bit weights against ``mlx_lm.lora`` and ``mlx-train-perf``, on the same rows and the same small models.

    python benchmarks/native.py [--json] [--rows 2000] [--epochs 3] [--peer-steps 300] [--train-perf PYTHON] [--only TEXT]

The models have random weights and as many layers as a 1B and a 3B Llama, with small widths. Each side runs in its own process,
on any backend; on a CPU, all use mlxtune's 16-bit matrix products. *Traces* counts the compiled steps; *retained* is the growth of
the process's memory after its first epoch (for peers, after the first half), per 100 steps. ``mlx-train-perf`` pins older versions
of mlx and mlx-lm, so ``PYTHON`` is the interpreter of an environment of its own: ``pip install mlx-train-perf mlx-lm``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from common import call, environment, heading

LLAMA = {
    "model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 4096, "tie_word_embeddings": True, "rope_theta": 5e5,
    "max_position_embeddings": 2048, "head_dim": 32,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "1B": LLAMA
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
    "3B": LLAMA
    | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 28, "num_attention_heads": 4, "num_key_value_heads": 1},
}
WORDS = [f"w{index}" for index in range(1000)]
OWN = {"mlxtune": "padded", "mlxtune, any shape": "any", "mlxtune, not compiled": "off"}
PEERS = ("mlx_lm.lora", "mlx-train-perf")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of mlxtune")
    parser.add_argument("--peer-steps", type=int, default=300, help="steps of each peer; 0 skips them")
    parser.add_argument("--train-perf", default="", help="the interpreter of an environment with mlx-train-perf")
    parser.add_argument("--only", default="", help="only lines whose name contains this text, such as '1B: mlxtune'")
    options = parser.parse_args()
    lines: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = write_rows(Path(scratch) / "rows.jsonl", options.rows)
        for size, config in MODELS.items():
            arguments = ["--model", str(build(config, Path(scratch) / size)), "--train", str(file)]
            for name, shapes in OWN.items():
                if options.only in f"{size}: {name}":
                    lines[f"{size}: {name}"] = call(
                        "own_native.py", *arguments, "--shapes", shapes, "--epochs", str(options.epochs), note=name
                    )
            for name in PEERS:
                python = options.train_perf if name == "mlx-train-perf" else ""
                skipped = not options.peer_steps or (name == "mlx-train-perf" and not python)
                if options.only in f"{size}: {name}" and not skipped:
                    lines[f"{size}: {name}"] = call(
                        "peer_native.py", *arguments, "--peer", name, "--steps", str(options.peer_steps), note=name, python=python
                    )
    data = {"file": "random words, log-normal lengths", "rows": options.rows}
    result = {**environment("mlx-lm"), "data": data, "lines": lines}
    print(json.dumps(result, indent=2) if options.json else table(result))


def write_rows(file: Path, count: int) -> Path:
    """Write rows of random words with log-normal lengths: 25 words in the median, of which a tenth to a half are the answer."""
    dice = random.Random(7)
    rows = []
    for _ in range(count):
        words = min(200, max(8, round(25 * dice.lognormvariate(0, 0.6))))
        answer = max(2, round(words * dice.uniform(0.1, 0.5)))
        text = dice.choices(WORDS, k=words)
        rows.append({"prompt": " ".join(text[answer:]), "completion": " ".join(text[:answer])})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def build(config: dict[str, Any], folder: Path) -> Path:
    """Save a random 4-bit model in bf16, with a tokenizer that has one token for most words."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_config, save_model
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 9, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    model, config = quantize_model(model, dict(config), 64, 4)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def table(result: dict[str, Any]) -> str:
    text = [heading(result), f"{'':26} steps  s/step  CPU s/step  traces  computed/real  peak MB  retained MB  per 100 steps"]
    for name, line in result["lines"].items():
        text.append(
            f"{name:26} {line['steps']:5} {line['seconds_per_step']:7.3f} {line['cpu_seconds_per_step']:11.3f} {line['traces']:7} "
            f"{line['computed_per_real']:14.3f} {line['peak'] / 1e6:8.0f} {line['retained'] / 1e6:12.0f} "
            f"{line['retained_per_100'] / 1e6:14.2f}"
        )
    return "\n".join(text)


if __name__ == "__main__":
    main()
