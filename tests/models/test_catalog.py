"""The model catalog, compared with mlx-lm's models, and the fit on machines."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import ModelError
from mlxtune.models import catalog
from mlxtune.models.catalog import CatalogModel
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes
from mlxtune.planning.machine import mac_with
from mlxtune.planning.shapes import ModelShapes

BASES = {base.id: base for base in catalog.models()}

# Sizes listed on the Hub: bytes of the weights, or numbers in the files, where packed weights count as 32-bit words.
BYTES = {"mlx-community/gemma-3-1b-it-4bit": 733e6, "mlx-community/Qwen2.5-7B-Instruct-4bit": 4.28e9}
WORDS = {
    "mlx-community/Llama-3.2-1B-Instruct-4bit": 193e6, "mlx-community/Llama-3.2-3B-Instruct-4bit": 502e6,
    "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit": 1.25e9, "mlx-community/Qwen2.5-7B-Instruct-4bit": 1.19e9,
    "mlx-community/Qwen2.5-3B-Instruct-4bit": 482e6, "mlx-community/gemma-2-2b-it-4bit": 409e6,
}  # fmt: skip


def config(base: CatalogModel) -> dict[str, Any]:
    """Return mlx-lm's configuration for the model."""
    return {
        "model_type": base.architecture, "hidden_size": base.hidden, "num_hidden_layers": base.layers, "intermediate_size": base.mlp_width,
        "num_attention_heads": base.heads, "num_key_value_heads": base.kv_heads, "head_dim": base.head_dim, "vocab_size": base.vocab_size,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": base.tied, "rope_theta": 1e4, "max_position_embeddings": base.context,
        "quantization": {"group_size": base.group, "bits": base.bits, "model.embed_tokens": {"bits": base.embedding_bits, "group_size": base.group}},
    }  # fmt: skip


def on_disk(base: CatalogModel, folder: Path) -> ModelShapes:
    """Return the shapes of the file that mlx-lm would write, without computing weights (the file is sparse)."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    module = importlib.import_module(f"mlx_lm.models.{base.architecture}")
    settings = config(base)
    model = module.Model(module.ModelArgs.from_dict(settings))
    model.set_dtype(mx.float16)
    nn.quantize(model, class_predicate=lambda path, layer: hasattr(layer, "to_quantized") and {
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
    return shapes.read_shapes(folder, settings)


@pytest.mark.parametrize("id", BASES)
def test_shapes_match_mlx_lms_model(id: str, tmp_path: Path) -> None:
    actual, expected = BASES[id].shapes, on_disk(BASES[id], tmp_path)
    key = str
    pathless = (replace(weight, path="") for weight in expected.weights)  # the catalog has no file names
    assert sorted(actual.weights, key=key) == sorted(pathless, key=key)
    assert replace(actual, weights=()) == replace(expected, weights=())


@pytest.mark.parametrize("id", BASES)
def test_full_attention_matches_mlx_lms_caches(id: str) -> None:
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    base = BASES[id]
    module = importlib.import_module(f"mlx_lm.models.{base.architecture}")
    model = module.Model(module.ModelArgs.from_dict(config(base)))
    assert base.full_attention == all(type(cache) is KVCache for cache in make_prompt_cache(model))


@pytest.mark.parametrize(("id", "size"), BYTES.items())
def test_sizes_match_the_hub(id: str, size: float) -> None:
    assert BASES[id].nbytes == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(("id", "words"), WORDS.items())
def test_parameter_counts_match_the_hub(id: str, words: float) -> None:
    counted = 0
    for weight in BASES[id].shapes.weights:
        packed = weight.numbers * weight.bits // 32
        counted += packed + (weight.nbytes - 4 * packed) // 2
    assert counted == pytest.approx(words, rel=0.005)


@pytest.mark.real
def test_the_bundled_models_match_the_catalog(real: LoadedModel, gemma3_folder: ModelFolder) -> None:
    for source in (real.source, gemma3_folder):
        base = BASES[source.name]
        actual = shapes.read_shapes(source.folder, source.config)
        assert actual.parameters == base.shapes.parameters
        assert {(weight.name, weight.layer, weight.shape, weight.bits) for weight in actual.weights} == {
            (weight.name, weight.layer, weight.shape, weight.bits) for weight in base.shapes.weights
        }
        assert base.context == source.config["max_position_embeddings"]


def test_every_model_has_a_license_and_terms() -> None:
    for base in BASES.values():
        assert base.commercial in ("yes", "conditions", "no")
        assert base.terms.startswith("https://")
        assert bool(base.condition) == (base.commercial != "yes")
    assert BASES["mlx-community/Qwen2.5-3B-Instruct-4bit"].commercial == "no"
    assert len({base.id for base in catalog.models()}) == len(catalog.models())


def test_fit_improves_with_memory_and_worsens_with_size() -> None:
    order = {"refuse": 0, "warn": 1, "go": 2}
    for base in BASES.values():
        words = [order[base.fit(mac_with(size)).outcome] for size in (8, 16, 32, 64)]
        assert words == sorted(words)
    smallest, largest = (BASES[id] for id in ("smollm2-135m", "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit"))
    assert smallest.fit(mac_with(8)).outcome == "go"
    assert largest.fit(mac_with(8)).outcome == "refuse"
    assert largest.fit(mac_with(32)).outcome == "go"


def test_an_unknown_id_is_not_in_the_catalog() -> None:
    assert catalog.find("nothing/like-it") is None


@pytest.mark.parametrize("text", ["base = [", "", "[[base]]\nid = 'a'"])
def test_a_broken_catalog_raises_a_model_error(text: str) -> None:
    with pytest.raises(ModelError, match="Cannot read the model catalog"):
        catalog.parse(text)
