"""The catalogue against mlx-lm's own models, and what it says fits."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import ModelError
from mlxtune.models import catalog
from mlxtune.models.catalog import Base
from mlxtune.planning import shapes
from mlxtune.planning.machine import mac
from mlxtune.planning.shapes import Shapes

BASES = {base.id: base for base in catalog.bases()}

# What the hub shows for these repositories: bytes of their weights, or numbers in their files, packed ones as words of 32 bits.
BYTES = {"mlx-community/gemma-3-1b-it-4bit": 733e6, "mlx-community/Qwen2.5-7B-Instruct-4bit": 4.28e9}
WORDS = {
    "mlx-community/Llama-3.2-1B-Instruct-4bit": 193e6, "mlx-community/Llama-3.2-3B-Instruct-4bit": 502e6,
    "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit": 1.25e9, "mlx-community/Qwen2.5-7B-Instruct-4bit": 1.19e9,
    "mlx-community/Qwen2.5-3B-Instruct-4bit": 482e6, "mlx-community/gemma-2-2b-it-4bit": 409e6,
}  # fmt: skip


def config(base: Base) -> dict[str, Any]:
    """What mlx-lm needs to build the base."""
    return {
        "model_type": base.kind, "hidden_size": base.hidden, "num_hidden_layers": base.layers, "intermediate_size": base.inner,
        "num_attention_heads": base.heads, "num_key_value_heads": base.kv_heads, "head_dim": base.head_width, "vocab_size": base.vocabulary,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": base.tied, "rope_theta": 1e4, "max_position_embeddings": base.context,
        "quantization": {"group_size": base.group, "bits": base.bits, "model.embed_tokens": {"bits": base.embedding_bits, "group_size": base.group}},
    }  # fmt: skip


def on_disk(base: Base, folder: Path) -> Shapes:
    """The shapes of a file that mlx-lm would write of the base; its weights are never computed, and the file is all holes."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    module = importlib.import_module(f"mlx_lm.models.{base.kind}")
    told = config(base)
    model = module.Model(module.ModelArgs.from_dict(told))
    model.set_dtype(mx.float16)
    nn.quantize(model, class_predicate=lambda path, one: hasattr(one, "to_quantized") and {
        "bits": base.embedding_bits if "embed" in path else base.bits, "group_size": base.group})  # fmt: skip
    kinds = {mx.float16: ("F16", 2), mx.uint32: ("U32", 4)}
    entries, end = {}, 0
    for name, array in tree_flatten(model.parameters()):
        kind, size = kinds[array.dtype]
        start, end = end, end + size * array.size
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return shapes.read(folder, told)


@pytest.mark.parametrize("id", BASES)
def test_shapes_are_those_of_mlx_lms_own_model(id: str, tmp_path: Path) -> None:
    found, expected = BASES[id].shapes, on_disk(BASES[id], tmp_path)
    key = str
    pathless = (replace(weight, path="") for weight in expected.weights)  # a catalogue knows no file's names
    assert sorted(found.weights, key=key) == sorted(pathless, key=key)
    assert replace(found, weights=()) == replace(expected, weights=())


@pytest.mark.parametrize("id", BASES)
def test_attention_is_plain_where_every_cache_of_mlx_lm_is(id: str) -> None:
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    base = BASES[id]
    module = importlib.import_module(f"mlx_lm.models.{base.kind}")
    model = module.Model(module.ModelArgs.from_dict(config(base)))
    assert base.plain == all(type(cache) is KVCache for cache in make_prompt_cache(model))


@pytest.mark.parametrize(("id", "size"), BYTES.items())
def test_sizes_are_those_that_the_hub_shows(id: str, size: float) -> None:
    assert BASES[id].size == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(("id", "words"), WORDS.items())
def test_numbers_in_the_files_are_those_that_the_hub_counts(id: str, words: float) -> None:
    counted = 0
    for weight in BASES[id].shapes.weights:
        packed = weight.numbers * weight.bits // 32
        counted += packed + (weight.saved - 4 * packed) // 2
    assert counted == pytest.approx(words, rel=0.005)


@pytest.mark.real
def test_the_bundled_model_is_as_the_catalogue_says(real) -> None:
    base = BASES["smollm2-135m"]
    found = shapes.read(real.source.folder, real.source.config)
    assert found.parameters == base.shapes.parameters
    assert {(one.name, one.layer, one.shape, one.bits) for one in found.weights} == {
        (one.name, one.layer, one.shape, one.bits) for one in base.shapes.weights
    }
    assert base.context == real.source.config["max_position_embeddings"]


def test_every_base_says_what_it_may_be_used_for() -> None:
    for base in BASES.values():
        assert base.commercial in ("yes", "conditions", "no")
        assert base.terms.startswith("https://")
        assert bool(base.condition) == (base.commercial != "yes")
    assert BASES["mlx-community/Qwen2.5-3B-Instruct-4bit"].commercial == "no"
    assert len({base.id for base in catalog.bases()}) == len(catalog.bases())


def test_a_larger_mac_fits_no_less_and_a_larger_base_no_better() -> None:
    order = {"refuse": 0, "warn": 1, "go": 2}
    for base in BASES.values():
        words = [order[base.fit(mac(size)).word] for size in (8, 16, 32, 64)]
        assert words == sorted(words)
    smallest, largest = (BASES[id] for id in ("smollm2-135m", "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit"))
    assert smallest.fit(mac(8)).word == "go"
    assert largest.fit(mac(8)).word == "refuse"
    assert largest.fit(mac(32)).word == "go"


def test_a_name_without_its_owner_is_understood() -> None:
    assert catalog.suggest("llama-3.2-3b-instruct") == "mlx-community/Llama-3.2-3B-Instruct-4bit"
    assert catalog.suggest("somebody/qwen2.5-7b") == "mlx-community/Qwen2.5-7B-Instruct-4bit"
    assert catalog.find("nothing/like-it") is None


@pytest.mark.parametrize("text", ["base = [", "", "[[base]]\nid = 'a'"])
def test_a_broken_catalogue_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ModelError, match="The catalogue cannot be read"):
        catalog.parse(text)
