"""Every architecture in the installed mlx-lm trains and is evaluated, or is refused by name before its weights are downloaded."""

from functools import cache
from pathlib import Path
from typing import Any

import families
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from exhaustive import cases
from hub_stub import Hub, Repo
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import save_config, save_model

from mlxtune.core.errors import ModelError
from mlxtune.models import hub, lora
from mlxtune.models.families import UNTRAINABLE, check_trainable
from mlxtune.models.head import split_head
from mlxtune.models.resolve import resolve
from mlxtune.planning.shapes import read_shapes
from mlxtune.recipe import AdapterSection
from mlxtune.training import sft
from mlxtune.training.layer_stack import LayerStack

pytestmark = pytest.mark.usefixtures("uncompiled")

NAMES = families.names()
PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text().splitlines()
TRAINABLE = [name for name in NAMES if name not in UNTRAINABLE]
measure = cache(families.measure)
every_family = pytest.mark.parametrize("name", cases(TRAINABLE, "gemma3n", "falcon_h1", "gpt2", "glm4_moe", "qwen3_next"))


@pytest.mark.slow
@every_family
def test_a_family_trains_the_same_with_checkpointing_and_is_evaluated(name: str, tmp_path: Path) -> None:
    model = families.build(name)
    assert families.is_causal(model)
    save_model(tmp_path, model)
    save_config(families.config(name), tmp_path / "config.json")
    shapes = read_shapes(tmp_path, families.config(name))

    result = measure(name)
    assert not result.refused
    plain, recomputed = result.losses
    assert np.isfinite(plain).all()
    assert plain[1] != plain[0]
    assert recomputed == pytest.approx(plain, rel=1e-4)
    assert result.gradient_error < 1e-4
    assert (result.runs_per_layer == 2) == (result.saved > 0.5) == shapes.can_checkpoint
    assert families.line(result) in PAGE

    section = AdapterSection(rank=4, alpha=8)
    lora.add(model, section, seed=3)
    assert {weight.path for weight in shapes.adapter_targets(section)} == {
        path.rpartition(".")[0] for path in lora.adapter_arrays(model)
    }
    assert (shapes.depth, shapes.width, shapes.vocabulary) == (len(model.layers), 64, 320)


@pytest.mark.slow
@every_family
def test_a_training_step_can_be_traced_for_compilation(name: str) -> None:
    model = families.build(name)
    lora.add(model, AdapterSection(rank=4, alpha=8), seed=3)
    stack = LayerStack(model, split_head(model), checkpointed=True)
    arrays = sft.collate(families.ROWS, range(3), 0).arrays()
    model.train()
    mx.enable_compile()
    try:
        mx.compile(nn.value_and_grad(model, lambda arrays: sft.loss_sum(stack, arrays)), inputs=model.state, outputs=model.state)(
            arrays
        )
    finally:
        mx.disable_compile()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    cases(
        ["lfm2", "nemotron_h", "falcon_h1", "nanochat", "gpt_neox", "afm7", "gemma4", "gemma3n", "dots1"], "falcon_h1", "nanochat"
    ),
)
def test_checkpointing_recomputes_and_saves_memory(name: str) -> None:
    result = measure(name)
    assert result.runs_per_layer == 2
    assert result.saved > 0.5


def test_a_type_check_of_a_recomputed_layer_sees_the_layer() -> None:
    """OLMo Hybrid chooses the mask of a layer by its class."""
    model = families.build("olmo_hybrid")
    lora.add(model, AdapterSection(rank=4, alpha=8), seed=3)
    head, tokens = split_head(model), mx.array([[1, 5, 2, 9]])
    plain, recomputed = (LayerStack(model, head, checkpointed=on).hidden_states(tokens) for on in (False, True))
    assert mx.array_equal(plain, recomputed)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(["llama4", "minicpm3", "gpt_bigcode", "jamba"], "minicpm3"))
def test_architectures_that_cannot_be_batched_are_evaluated(name: str) -> None:
    assert measure(name).answers in ("one by one", "mlx-lm")


@pytest.mark.parametrize("name", ["gemma3n", "gpt_neox", "lille-130m"])
def test_a_head_inside_the_backbone_is_computed_at_the_trained_positions_only(name: str) -> None:
    model = families.build(name)
    head = split_head(model)
    assert head.is_split
    assert not head.has_unusual_head
    assert "fused_logp" in head.logp.__qualname__
    tokens = mx.array([[1, 5, 2, 9, 4, 7]])
    hidden = head.backbone(tokens, None)
    assert hidden.shape == (1, 6, 64)
    assert mx.allclose(head.logits(hidden), model(tokens, cache=make_prompt_cache(model)), atol=1e-4)


def test_gemma3n_layers_pass_several_residual_streams(tmp_path: Path) -> None:
    config = families.config("gemma3n")
    save_model(tmp_path, families.build("gemma3n"))
    assert read_shapes(tmp_path, config).residual_streams == config["text_config"]["altup_num_inputs"]


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_an_untrainable_family_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"a/b cannot be fine-tuned: {name}: ") as refusal:
        check_trainable({"model_type": name}, "a/b")
    assert refusal.value.hint
    assert families.line(measure(name)) in PAGE


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "it is an encoder, which does not generate text (bert)"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "it is an encoder-decoder (t5)"),
        ({"model_type": "whisper", "num_mel_bins": 80, "is_encoder_decoder": True}, "it is a speech model (whisper)"),
        ({"model_type": "vit", "patch_size": 16}, "it is a vision model, which does not generate text (vit)"),
        ({"model_type": "llava_next", "vision_config": {}, "text_config": {}}, "it is a vision-language model"),
        ({"model_type": "llada", "architectures": ["LLaDAModelLM"]}, "it is a diffusion language model (llada)"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}, "it is a classifier"),
        ({"model_type": "quasar"}, "has no architecture quasar"),
        ({"model_type": "../utils"}, "has no architecture ../utils"),
        ({"model_type": 3}, "its config.json names no model type"),
        ({}, "its config.json names no model type"),
    ],
)
def test_other_models_are_refused_with_their_kind(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError) as refusal:
        check_trainable(config, "a/b")
    assert reason in refusal.value.message
    assert refusal.value.hint


def test_the_page_lists_every_architecture() -> None:
    """If this fails, mlx-lm has other architectures now. Run: python tools/architectures.py"""
    assert [line.split(" | ")[0].removeprefix("| ") for line in PAGE if line.startswith("| ")][1:] == NAMES


def test_renamed_model_types_are_accepted() -> None:
    for config in (
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
        {"model_type": "gemma4_unified", "vision_config": {}},
        {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]},
    ):
        check_trainable(config, "a/b")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b'{"model_type": "bert", "architectures": ["BertForMaskedLM"]}'}, "it is an encoder"),
        ({"config.json": b'{"model_type": "rwkv7"}'}, "rwkv7: mlx-lm runs its recurrence in a Metal kernel without gradients"),
        ({"model_index.json": b"{}"}, "has no config.json, so it is not a language model"),
    ],
)
def test_a_refused_model_is_not_downloaded(hub_server: Hub, files: dict[str, bytes], reason: str) -> None:
    hub_server.repos["a/b"] = Repo(files | {"model.safetensors": b"weights", "tokenizer_config.json": b"{}"})
    with pytest.raises(ModelError) as refusal:
        resolve("a/b")
    assert reason in refusal.value.message
    assert hub.cached("a/b") is None
    assert not [path for _, path, _ in hub_server.requests if path.endswith((".safetensors", "tokenizer_config.json"))]


@pytest.mark.parametrize(("name", "error"), [("deepseek_v41", "VJP"), ("recurrent_gemma", "_no_grad")])
def test_a_refused_family_still_fails_in_mlx_lm(name: str, error: str) -> None:
    """If this fails, mlx-lm has been fixed: remove the entry from ``UNTRAINABLE``."""
    with pytest.raises((ValueError, AttributeError), match=error):
        families._train(name, checkpointed=False)
