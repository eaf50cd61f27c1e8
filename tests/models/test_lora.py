"""Adapters: targets, names, and compatibility with mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm import stream_generate
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_model
from tiny_architectures import make

from mlxtune.core.errors import ModelError, RecipeError
from mlxtune.models import lora
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection


def randomize(model) -> dict[str, mx.array]:
    """Replace the zeros in B with random values, so that the adapter has an effect."""
    arrays = {name: mx.random.normal(array.shape) * 0.2 for name, array in lora.adapter_arrays(model).items()}
    model.load_weights(list(arrays.items()), strict=False)
    return arrays


@pytest.mark.parametrize(
    ("section", "count", "leaf"),
    [
        (AdapterSection(layers="all"), 2 * 7 * 2, "mlp.up_proj.lora_a"),
        (AdapterSection(layers=1, targets="attention"), 1 * 4 * 2, "self_attn.q_proj.lora_b"),
        (AdapterSection(targets=["q_proj", "v_proj"]), 2 * 2 * 2, "self_attn.v_proj.lora_a"),
    ],
)
def test_targets_and_layers_follow_the_recipe(tiny: Path, section: AdapterSection, count: int, leaf: str) -> None:
    model, _ = load_model(tiny)
    lora.add(model, section, seed=1)
    names = lora.adapter_arrays(model)
    assert len(names) == count
    assert f"model.layers.1.{leaf}" in names


def test_mlx_lm_opens_the_adapter_and_gives_the_same_answer(tiny: Path, tmp_path: Path) -> None:
    model, tokenizer = load_stock(str(tiny))
    config = lora.add(model, AdapterSection(rank=4, alpha=12), seed=1)
    lora.save(tmp_path / "adapter", randomize(model), config)
    settings = GenerationSettings(max_tokens=24, stops=frozenset(), batch_size=1)
    own = generate(model, tokenizer, [PromptGroup([[70, 71, 72]], settings)])[0].text
    stock, _ = load_stock(str(tiny), adapter_path=str(tmp_path / "adapter"))
    stock_answer = tokenizer.decode([part.token for part in stream_generate(stock, tokenizer, [70, 71, 72], max_tokens=24)])
    assert own.startswith(stock_answer.split("<|im_end|>")[0])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_parameters"]["scale"] == 3.0


def test_a_truncated_adapter_is_refused_before_it_is_opened(tiny: Path, tmp_path: Path) -> None:
    model, _ = load_model(tiny)
    lora.save(tmp_path, randomize(model) if lora.add(model, AdapterSection(rank=4), seed=1) else {}, {})
    file = tmp_path / lora.WEIGHTS
    for data in (file.read_bytes()[:-10], b"", b"\x80\x05pickle", (2**40).to_bytes(8, "little") + b"{}"):
        file.write_bytes(data)
        for open_ in (lora.load_weights, lora.load):
            with pytest.raises(ModelError, match="has an invalid header"):
                open_(model, tmp_path)


OUTSIDE = ["q_proj", "embed_tokens"]


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("llama", AdapterSection(rank=4, kind="dora")),
        ("llama", AdapterSection(rank=4, kind="dora", layers=1, targets=["v_proj", "lm_head"])),
        ("llama", AdapterSection(rank=4, rslora=True, layers=1, targets=[*OUTSIDE, "lm_head"])),
        ("smollm2", AdapterSection(rank=4, layers=1, targets=OUTSIDE)),
        ("gemma3", AdapterSection(rank=4, layers=1, targets=OUTSIDE)),
        ("gemma4", AdapterSection(rank=4, layers=1, targets=OUTSIDE)),
        ("phi3", AdapterSection(rank=4, kind="dora", targets=["qkv_proj", "gate_up_proj"])),
        ("qwen3_moe", AdapterSection(rank=4, targets=["q_proj", "switch_mlp.up_proj"])),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.kind} on {value.targets}",
)
def test_every_kind_and_target_starts_at_the_base_and_round_trips_through_mlx_lm(
    tmp_path: Path, name: str, section: AdapterSection
) -> None:
    folder = make(tmp_path / "model", name)
    model, _ = load_model(folder)
    tokens = mx.array([[5, 6, 7]])
    before = model(tokens)
    config = lora.add(model, section, seed=1)
    model.eval()
    assert mx.allclose(model(tokens), before, rtol=1e-5, atol=1e-5)
    names = lora.adapter_arrays(model)
    leaves = {"lora_a", "lora_b", "m"} if section.kind == "dora" else {"lora_a", "lora_b"}
    assert {name.rsplit(".", 1)[-1] for name in names} == leaves
    for target in section.targets if isinstance(section.targets, list) else ():
        assert any(f"{target}.lora_a" in name for name in names), target
    assert not any(".layers.0." in name for name in names) or section.layers == "all"
    lora.save(tmp_path / "adapter", randomize(model), config)
    stock = load_adapters(load_model(folder)[0], str(tmp_path / "adapter"))
    stock.eval()
    assert mx.array_equal(stock(tokens), model(tokens))
    assert not mx.allclose(stock(tokens), before, rtol=1e-2, atol=1e-2)
    assert json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())["fine_tune_type"] == section.kind


def test_an_embedding_trained_on_dequantized_weights_fits_the_quantized_base(tmp_path: Path) -> None:
    source = resolve(str(make(tmp_path / "model", "smollm2")))
    model = load(source, "float32").model
    config = lora.add(model, AdapterSection(rank=4, targets=OUTSIDE), seed=1)
    lora.save(tmp_path / "adapter", randomize(model), config)
    model.eval()
    native = load(source, "native").model
    lora.load(native, tmp_path / "adapter")
    tokens = mx.array([[5, 6, 7]])
    assert mx.allclose(native(tokens), model(tokens), rtol=1e-3, atol=1e-3)


def test_all_linear_excludes_experts_and_routers_unless_named(tmp_path: Path) -> None:
    model, _ = load_model(make(tmp_path, "qwen3_moe"))
    lora.add(model, AdapterSection(rank=4), seed=1)
    assert {name.split(".")[4] for name in lora.adapter_arrays(model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    model, _ = load_model(tmp_path)
    lora.add(model, AdapterSection(rank=4, targets=["gate"]), seed=1)
    assert {name.split(".")[4] for name in lora.adapter_arrays(model)} == {"gate"}


@pytest.mark.parametrize(
    ("name", "section", "message", "hint"),
    [
        ("smollm2", AdapterSection(targets=["lm_head"]), "named lm_head", "Use embed_tokens"),
        ("llama", AdapterSection(targets=["lm_haed"]), "named lm_haed", "lm_head"),
        ("smollm2", AdapterSection(targets=["q_prj"]), "no layer named q_prj", "q_proj"),
        (
            "llama",
            AdapterSection(kind="dora", targets=["embed_tokens"]),
            "DoRA is for linear layers, not .*embed_tokens",
            'kind = "lora"',
        ),
        (
            "qwen3_moe",
            AdapterSection(kind="dora", targets=["down_proj"]),
            "DoRA is for linear layers, not .*down_proj",
            'kind = "lora"',
        ),
    ],
    ids=["tied head", "misspelled", "misspelled layer", "dora embedding", "dora experts"],
)
def test_unsupported_targets_are_refused(tmp_path: Path, name: str, section: AdapterSection, message: str, hint: str) -> None:
    model, _ = load_model(make(tmp_path, name))
    with pytest.raises(RecipeError, match=message) as caught:
        lora.add(model, section, seed=1)
    assert hint in caught.value.hint
