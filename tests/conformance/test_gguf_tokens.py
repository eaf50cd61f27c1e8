"""The tokens of every family in llama.cpp: 200 texts with its control tokens, on a real vocabulary."""

import shutil

import pytest
from bases import Base, write_base
from llama_cpp import llama
from mlx_lm.utils import load_model
from table import AVAILABLE
from texts import texts
from tiny_architectures import make
from tokenizers import Tokenizer

from mlxtune.adapters.export import gguf
from mlxtune.core.files import read_json
from mlxtune.models.resolve import resolve

ARCHITECTURES = {"Gemma 4 E2B": "gemma4_text"}  # others write their tokenizers in the same way, so that a Llama will do
NAMES = ("Qwen3", "Gemma 4 E2B", "Gemma 3", "Llama 3.2")
LLAMA2 = Base(
    "Llama 2", "llama3", "llama2", ("</s>",), ("<s>", "</s>", "<unk>"), bos="<s>"
)  # with another's template, which is not used
EACH = [*(base for base in AVAILABLE if base.name in NAMES), LLAMA2]


@pytest.mark.exhaustive
@pytest.mark.parametrize("base", EACH, ids=lambda base: base.name)
def test_texts_have_the_same_tokens_in_llama_cpp(base, vocabularies, tmp_path):
    folder = write_base(base, vocabularies[base.vocabulary], tmp_path / "base")
    tokenizer = read_json(folder / "tokenizer.json")
    rows = 1 + max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"]))
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": rows, "tie_word_embeddings": True}
    architecture = ARCHITECTURES.get(base.name, "llama")
    if architecture == "gemma4_text":
        sizes |= {"vocab_size_per_layer_input": rows, "hidden_size_per_layer_input": 0}
    made = make(tmp_path / "model", architecture, bits=0, dtype="float16", **sizes)
    source = resolve(str(shutil.copytree(folder, made, dirs_exist_ok=True)))  # in place of its tokenizer
    model, config = load_model(source.folder)
    gguf.write_gguf(model, config, source, tmp_path / "model.gguf")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    composed = (tokenizer.get("normalizer") or {}).get("type") == "NFC"
    with llama(tmp_path / "model.gguf") as server:
        for text in texts((*base.specials, *base.plain), composed=composed):
            expected = own.encode(text)
            assert server.tokenize(text) == expected.ids, (text, expected.tokens)
