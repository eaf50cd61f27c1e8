"""Every recipe optimizer, alone and with LoRA+."""

from dataclasses import replace

import mlx.core as mx
import pytest
from exhaustive import cases
from loops import SECTION, Ways, assert_resumes

from mlxtune.recipe import AdapterSection, TrainingSection
from mlxtune.training import optimizer

TRAINED = [("adamw", 1.0), ("muon", 1.0), ("adafactor", 1.0), ("lion", 1.0), ("adamw", 4.0)]  # with the ratio of LoRA+
FAST = {"adamw": 1e-2, "adafactor": 1e-2, "muon": 2e-2, "lion": 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize("trained", cases(TRAINED, *map(str, TRAINED[:2])))
def test_lowers_loss_and_resumes_bit_identically(tiny, tmp_path, trained):
    name, ratio = trained
    section = replace(
        SECTION, optimizer=name, learning_rate=FAST[name], weight_decay=0.01, steps=5, batch_size=32, accumulate=1, validate_every=9
    )
    steps = assert_resumes(tiny, tmp_path, section, Ways(layers=1, lora_plus=ratio), at=2)
    assert steps[-1]["loss"] < 0.97 * steps[0]["loss"]


def test_lora_plus_scales_learning_rate_of_b():
    """AdamW's first step is the learning rate in the direction of the gradient's sign."""
    section, adapter = TrainingSection(), AdapterSection(lora_plus=16.0)
    optimizer_ = optimizer.make(section, adapter)
    weights = {"layer": {"lora_a": mx.zeros((3, 2)), "lora_b": mx.zeros((2, 3)), "m": mx.zeros((3,))}}
    slopes = {"layer": {name: mx.full(array.shape, 0.5) for name, array in weights["layer"].items()}}
    optimizer_.init(weights)
    optimizer.set_rate(optimizer_, 1e-3, adapter)
    moved = optimizer_.apply_gradients(slopes, weights)["layer"]
    assert mx.allclose(moved["lora_a"], mx.array(-1e-3), rtol=1e-4)
    assert mx.allclose(moved["m"], mx.array(-1e-3), rtol=1e-4)
    assert mx.allclose(moved["lora_b"], mx.array(-16e-3), rtol=1e-4)


def test_weight_decay_shrinks_weights_without_gradient():
    section, adapter = TrainingSection(weight_decay=0.1), AdapterSection()
    optimizer_ = optimizer.make(section, adapter)
    weights = {"lora_a": mx.ones((2, 2))}
    optimizer_.init(weights)
    optimizer.set_rate(optimizer_, 0.5, adapter)
    assert mx.allclose(optimizer_.apply_gradients({"lora_a": mx.zeros((2, 2))}, weights)["lora_a"], mx.array(0.95))
