"""Shapes read from headers, compared with mlx-lm's model loaded from the same folder."""

from pathlib import Path

import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, make_prompt_cache
from mlx_lm.utils import load_model
from tiny_architectures import make
from tiny_model import make_tiny

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.models import lora
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.planning import shapes
from mlxtune.planning.shapes import WeightShape
from mlxtune.recipe import AdapterSection

from .conftest import llama, write_model


@pytest.mark.parametrize(("bits", "quantize"), [(0, 0), (4, 0), (8, 0), (0, 4), (0, 8)])
def test_bytes_match_the_loaded_model(tmp_path: Path, bits: int, quantize: int) -> None:
    source = resolve(str(make_tiny(tmp_path / "model", bits=bits)))
    model_shapes = shapes.read_shapes(source.folder, source.config)
    for compute in ("native",) if quantize else ("native", "float32"):
        model = load(source, compute, quantize).model
        assert sum(one.loaded_nbytes(float32=compute == "float32", quantize=quantize) for one in model_shapes.weights) == sum(
            array.nbytes for _, array in tree_flatten(model.parameters())
        )


def test_dimensions_of_a_quantized_model_are_unpacked(read) -> None:
    model_shapes = read(bits=4, kind="BF16", layers=3, width=256, inner=512, heads=4, kv=2, vocabulary=1000)
    assert (model_shapes.depth, model_shapes.width, model_shapes.vocabulary) == (3, 256, 1000)
    assert (model_shapes.heads, model_shapes.kv_heads, model_shapes.head_dim) == (4, 2, 64)
    assert {one.name: one.shape for one in model_shapes.layers[0] if one.is_matrix}["mlp.down_proj"] == (256, 512)
    assert all(one.bits == 4 for one in model_shapes.weights if one.is_matrix)


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["q_proj", "down_proj"], ["embed_tokens"]])
@pytest.mark.parametrize("layers", ["all", 1])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapter_targets_match_lora(tiny: Path, targets, layers, kind) -> None:
    if kind == "dora" and targets == ["embed_tokens"]:
        pytest.skip("mlx-lm has DoRA for linear layers")
    section = AdapterSection(rank=4, targets=targets, layers=layers, kind=kind)
    source = resolve(str(tiny))
    model, _ = load_model(source.folder)
    lora.add(model, section, 1)
    expected = sum(array.size for array in lora.adapter_arrays(model).values())
    targeted = shapes.read_shapes(source.folder, source.config).adapter_targets(section)
    assert sum(4 * sum(one.shape) + (one.shape[0] if kind == "dora" else 0) for one in targeted) == expected


def test_only_the_last_layers_are_adapted(read) -> None:
    model_shapes = read(layers=6)
    adapted = model_shapes.adapter_targets(AdapterSection(layers=2))
    assert {one.layer for one in adapted} == {4, 5}
    assert model_shapes.first_trained_layer(adapted) == 4
    adapted = model_shapes.adapter_targets(AdapterSection(layers=2, targets=["q_proj", "embed_tokens"]))
    assert model_shapes.first_trained_layer(adapted) == 0


def test_an_unknown_target_is_refused(read) -> None:
    with pytest.raises(RecipeError, match="this model has no layer named q_project"):
        read().adapter_targets(AdapterSection(targets=["q_project"]))


def test_parts_outside_the_text_model_are_ignored(tmp_path: Path) -> None:
    header, config = llama(layers=1)
    more = {"vision_tower.layers.0.fc1.weight": ("F32", [512, 512]), "lm_head.weight": ("F32", [1000, 256])}
    plain = shapes.read_shapes(write_model(tmp_path / "a", header, config), config)
    assert shapes.read_shapes(write_model(tmp_path / "b", header | more, config), config).parameters == plain.parameters


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0notjson!", b"\xff" * 16])
def test_a_broken_header_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        shapes.read_shapes(tmp_path, {})


@pytest.mark.parametrize("name", ["lfm2", "qwen3_5", "phi3", "gemma3_text"])
def test_recurrent_layers_compute_no_attention_scores(name: str, tmp_path: Path) -> None:
    """A layer that caches its state instead of keys and values is recurrent."""
    folder = make(tmp_path / name, name)
    model, config = load_model(folder)
    caches = make_prompt_cache(model)
    computed = [shapes.computes_scores(layer) for layer in shapes.read_shapes(folder, config).layers]
    assert computed == [not isinstance(cache, ArraysCache) for cache in caches]


def test_attention_beside_a_recurrence_computes_scores() -> None:
    layer = [weight(name) for name in ("mamba.A_log", "mamba.conv1d", "self_attn.q_proj", "self_attn.o_proj")]
    assert shapes.computes_scores(layer)
    assert not shapes.computes_scores(layer[:2])
    assert not shapes.computes_scores([weight("self_attn.q_proj"), weight("self_attn.q_conv1d"), weight("self_attn.A_log")])


def weight(name: str) -> WeightShape:
    return WeightShape(name, 0, (8, 8), 128, 2)
