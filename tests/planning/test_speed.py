"""Times estimated from a benchmark, compared with operations counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.planning import speed
from mlxtune.planning.machine import this_machine
from mlxtune.planning.shapes import ModelShapes, WeightShape
from mlxtune.planning.speed import TrainingRate, estimate_speed, find_rates, step_flops, store_rates
from mlxtune.recipe import AdapterSection

RATES = (TrainingRate(1_000, 1e6), TrainingRate(100_000, 4e6))


pytestmark = pytest.mark.usefixtures("fresh_home")


def shapes(layers: int = 4, experts: int = 0) -> ModelShapes:
    """Layers with a 10×10 matrix, a norm, and experts of 5×10; a vocabulary of 30."""
    weights = [WeightShape("embed_tokens", -1, (30, 10), 600, 2, path="model.embed_tokens")]
    for layer in range(layers):
        weights.append(WeightShape("self_attn.q_proj", layer, (10, 10), 200, 2, path=f"model.layers.{layer}.self_attn.q_proj"))
        weights.append(WeightShape("norm", layer, (10,), 20, 2, path=f"model.layers.{layer}.norm"))
        if experts:
            weights.append(WeightShape("mlp.switch_mlp.up_proj", layer, (experts, 5, 10), 0, 2))
    return ModelShapes(tuple(weights), 1, 1, 10, active_experts=2, tied=True)


def test_operations_of_a_step() -> None:
    """Two operations per number in each of the passes: forward, inputs' gradients, and forward again with checkpointing."""
    assert step_flops(100, 30, 0.5) == 4 * 100 + 4 * 30 * 0.5
    assert step_flops(100, 30, 0.5, checkpointed=True) == 6 * 100 + 4 * 30 * 0.5


def test_a_model_of_a_benchmarked_size_takes_its_rate() -> None:
    found = estimate_speed([TrainingRate(400, 1e6)], shapes(), AdapterSection(), 0.5, checkpointed=False)
    assert found is not None
    assert (found.seconds, found.frozen, found.source) == (pytest.approx((4 * 400 + 4 * 300 * 0.5) / 1e6), 0.0, "bench")


def test_layers_below_the_adapter_only_run_forward_and_only_active_experts_count() -> None:
    found = estimate_speed([TrainingRate(400, 1e6)], shapes(), AdapterSection(layers=1), 0.0, checkpointed=False)
    assert (found.seconds, found.frozen) == (pytest.approx(4 * 100 / 1e6), pytest.approx(2 * 300 / 1e6))
    found = estimate_speed([TrainingRate(1, 1e6)], shapes(1, experts=8), AdapterSection(), 0.0, checkpointed=False)
    assert found.seconds == pytest.approx(4 * (100 + 2 * 50) / 1e6)


@pytest.mark.parametrize(("parameters", "flops"), [(10, 1e6), (1_000, 1e6), (10_000, 2e6), (100_000, 4e6), (10**9, 4e6)])
def test_rates_are_interpolated_and_never_extrapolated(parameters: int, flops: float) -> None:
    assert speed._interpolate(RATES, parameters) == pytest.approx(flops)


def test_rates_belong_to_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_machine()
    assert find_rates(here) == ()
    assert estimate_speed((), shapes(), AdapterSection(), 0.5, checkpointed=False) is None
    store_rates(here, RATES[::-1])
    assert find_rates(here) == RATES
    assert find_rates(replace(here, chip="another")) == ()
    (Path(speed.home()) / speed.FILE).write_text("{")
    assert find_rates(here) == ()
