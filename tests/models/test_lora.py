"""Adapters: where they go, what they are called, and that stock mlx-lm opens them."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm import stream_generate
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_model

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.models import lora
from mlxtune.models.generate import generate
from mlxtune.recipe import AdapterSection


def shaken(model) -> dict[str, mx.array]:
    """Random values in place of the zeros in B, so that the adapter says something."""
    arrays = {name: mx.random.normal(array.shape) * 0.2 for name, array in lora.weights(model).items()}
    model.load_weights(list(arrays.items()), strict=False)
    return arrays


def test_a_fresh_adapter_changes_nothing(tiny: Path) -> None:
    model, _ = load_model(tiny)
    tokens = mx.array([[5, 6, 7]])
    before = model(tokens)
    lora.add(model, AdapterSection(rank=4), seed=1)
    assert mx.array_equal(before, model(tokens))


@pytest.mark.parametrize(
    ("section", "count", "leaf"),
    [
        (AdapterSection(layers="all"), 2 * 7 * 2, "mlp.up_proj.lora_a"),
        (AdapterSection(layers=1, targets="attention"), 1 * 4 * 2, "self_attn.q_proj.lora_b"),
        (AdapterSection(targets=["q_proj", "v_proj"]), 2 * 2 * 2, "self_attn.v_proj.lora_a"),
    ],
)
def test_targets_and_layers_are_as_in_the_recipe(tiny: Path, section: AdapterSection, count: int, leaf: str) -> None:
    model, _ = load_model(tiny)
    lora.add(model, section, seed=1)
    names = lora.weights(model)
    assert len(names) == count
    assert f"model.layers.1.{leaf}" in names


def test_an_unknown_target_is_refused_with_the_nearest(tiny: Path) -> None:
    model, _ = load_model(tiny)
    with pytest.raises(RecipeError, match="no layer of this model is called q_prj") as caught:
        lora.add(model, AdapterSection(targets=["q_prj"]), seed=1)
    assert "q_proj" in caught.value.mend


def test_stock_mlx_lm_opens_the_adapter_and_says_the_same(tiny: Path, tmp_path: Path) -> None:
    model, tokenizer = load_stock(str(tiny))
    config = lora.add(model, AdapterSection(rank=4, alpha=12), seed=1)
    lora.save(tmp_path / "adapter", shaken(model), config)
    own = generate(model, tokenizer, [[70, 71, 72]], max_tokens=24, stops=frozenset(), batch_size=1)[0][0]
    stock, _ = load_stock(str(tiny), adapter_path=str(tmp_path / "adapter"))
    told = tokenizer.decode([part.token for part in stream_generate(stock, tokenizer, [70, 71, 72], max_tokens=24)])
    assert own.startswith(told.split("<|im_end|>")[0])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_parameters"]["scale"] == 3.0


def test_a_saved_adapter_loads_here_exactly(tiny: Path, tmp_path: Path) -> None:
    model, _ = load_model(tiny)
    config = lora.add(model, AdapterSection(rank=4), seed=1)
    lora.save(tmp_path, shaken(model), config)
    other, _ = load_model(tiny)
    lora.load(other, tmp_path)
    tokens = mx.array([[5, 6, 7]])
    assert mx.array_equal(model(tokens), other(tokens))


def test_a_torn_adapter_is_refused_before_it_is_opened(tiny: Path, tmp_path: Path) -> None:
    model, _ = load_model(tiny)
    lora.save(tmp_path, shaken(model) if lora.add(model, AdapterSection(rank=4), seed=1) else {}, {})
    file = tmp_path / lora.WEIGHTS
    for data in (file.read_bytes()[:-10], b"", b"\x80\x05pickle", (2**40).to_bytes(8, "little") + b"{}"):
        file.write_bytes(data)
        with pytest.raises(ModelError):
            lora.check_header(file)
