"""Shapes from headers against what mlx-lm makes of the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from tiny_model import make_tiny

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.models import lora
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.planning import shapes
from mlxtune.recipe import AdapterSection

from .conftest import llama, write_model


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_bytes_are_those_of_the_loaded_model(tmp_path: Path, bits: int) -> None:
    source = resolve(str(make_tiny(tmp_path / "model", bits=bits)))
    found = shapes.read(source.folder, source.config)
    for compute in ("native", "float32"):
        model = load(source, compute).model
        assert sum(one.held(float32=compute == "float32", quantize=0) for one in found.weights) == sum(
            array.nbytes for _, array in tree_flatten(model.parameters())
        )


@pytest.mark.parametrize("quantize", [4, 8])
def test_bytes_after_quantising_on_load(tmp_path: Path, quantize: int) -> None:
    source = resolve(str(make_tiny(tmp_path / "model")))
    found = shapes.read(source.folder, source.config)
    model = load(source, "native", quantize).model
    assert sum(one.held(float32=False, quantize=quantize) for one in found.weights) == sum(
        array.nbytes for _, array in tree_flatten(model.parameters())
    )


def test_dimensions_of_a_quantised_model_are_those_before_packing(read) -> None:
    found = read(bits=4, kind="BF16", layers=3, width=256, inner=512, heads=4, kv=2, vocabulary=1000)
    assert (found.depth, found.width, found.vocabulary, found.heads, found.kv_heads, found.head_width) == (3, 256, 1000, 4, 2, 64)
    assert {one.name: one.shape for one in found.layers[0] if one.matrix}["mlp.down_proj"] == (256, 512)
    assert all(one.bits == 4 for one in found.weights if one.matrix)


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["q_proj", "down_proj"], ["embed_tokens"]])
@pytest.mark.parametrize("layers", ["all", 1])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_are_those_that_lora_adds(tiny: Path, targets, layers, kind) -> None:
    if kind == "dora" and targets == ["embed_tokens"]:
        pytest.skip("mlx-lm has DoRA for linear layers")
    section = AdapterSection(rank=4, targets=targets, layers=layers, kind=kind)
    source = resolve(str(tiny))
    model, _ = load_model(source.folder)
    lora.add(model, section, 1)
    expected = sum(array.size for array in lora.weights(model).values())
    found = shapes.read(source.folder, source.config).adapted(section)
    assert sum(4 * sum(one.shape) + (one.shape[0] if kind == "dora" else 0) for one in found) == expected


def test_only_the_last_layers_are_adapted_and_the_first_of_them_is_known(read) -> None:
    found = read(layers=6)
    adapted = found.adapted(AdapterSection(layers=2))
    assert {one.layer for one in adapted} == {4, 5}
    assert found.first(adapted) == 4
    assert found.first(found.adapted(AdapterSection(layers=2, targets=["q_proj", "embed_tokens"]))) == 0


def test_a_target_that_names_nothing_is_refused(read) -> None:
    with pytest.raises(RecipeError, match="no layer of this model is called q_project"):
        read().adapted(AdapterSection(targets=["q_project"]))


def test_what_is_not_of_the_text_model_does_not_count(tmp_path: Path) -> None:
    header, config = llama(layers=1)
    more = {"vision_tower.layers.0.fc1.weight": ("F32", [512, 512]), "lm_head.weight": ("F32", [1000, 256])}
    plain = shapes.read(write_model(tmp_path / "a", header, config), config)
    assert shapes.read(write_model(tmp_path / "b", header | more, config), config).parameters == plain.parameters


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0notjson!", b"\xff" * 16])
def test_a_broken_header_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        shapes.read(tmp_path, {})
