"""Estimate the time of a training step from this machine's benchmark, before any run or probe has measured it.

``mlxtune bench`` trains random models of several sizes and stores the rate of each, in FLOP/s. A recipe's time per position is the
number of operations that its model needs, divided by the rate of the benchmarked model of that size.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from mlxtune.core.files import home, read_state, write_json
from mlxtune.planning.calibration import StepCalibration, machine_facts
from mlxtune.planning.machine import Machine
from mlxtune.planning.shapes import ModelShapes
from mlxtune.recipe import AdapterSection

FILE = "benchmark.json"
FORWARD = 2  # operations per parameter and position; the backward pass for the inputs' gradients takes as many (arXiv:2001.08361)


class TrainingRate(NamedTuple):
    """The rate in FLOP/s at which this machine trains a model with ``parameters`` in its layers."""

    parameters: int
    flops: float


def forward_passes_per_step(*, checkpointed: bool) -> int:
    """Return how many forward passes take as long as a step.

    The base's weights need no gradients, so a backward pass takes as long as a forward pass; checkpointing repeats the forward pass.
    """
    return 3 if checkpointed else 2


def step_flops(layer_parameters: int, head_parameters: int, trained_share: float, *, checkpointed: bool = False) -> float:
    """Return the operations per position of a step. The head runs at the trained positions only; checkpointing repeats the forward pass."""
    return FORWARD * (forward_passes_per_step(checkpointed=checkpointed) * layer_parameters + 2 * head_parameters * trained_share)


def store_rates(machine: Machine, rates: Sequence[TrainingRate]) -> None:
    """Store the rates of a benchmark. Raises ``MachineError`` when the disk is full or read-only."""
    write_json(home() / FILE, {"v": 1, "machine": machine_facts(machine), "measured": time.time(), "rates": rates})


def find_rates(machine: Machine) -> tuple[TrainingRate, ...]:
    """Return the stored rates, smallest model first; none if they are from another machine or another version of MLX."""
    try:
        document = read_state(home() / FILE, 1)
        rates = sorted(TrainingRate(int(parameters), float(flops)) for parameters, flops in document["rates"])
        return tuple(rates) if document["machine"] == machine_facts(machine) else ()
    except (ValueError, KeyError, TypeError):
        return ()


def estimate_speed(
    rates: Sequence[TrainingRate], shapes: ModelShapes, adapter: AdapterSection, trained_share: float, *, checkpointed: bool
) -> StepCalibration | None:
    """Return the estimated time per position; ``None`` without a benchmark."""
    if not rates:
        return None
    first = shapes.first_trained_layer(shapes.adapter_targets(adapter))
    layers = []  # the elements of each layer's matrices that a token uses: of (experts, out, in), those of the active experts
    for layer in shapes.layers:
        experts = [weight for weight in layer if len(weight.shape) == 3]
        active = [weight.numbers * min(shapes.active_experts, weight.shape[0]) // weight.shape[0] for weight in experts]
        layers.append(sum(active) + sum(weight.numbers for weight in layer if weight.is_matrix))
    rate = _interpolate(rates, sum(layers))
    head = shapes.vocabulary * shapes.width
    seconds = step_flops(sum(layers[first:]), head, trained_share, checkpointed=checkpointed) / rate
    return StepCalibration(1.0, seconds, FORWARD * sum(layers[:first]) / rate, "bench")


def _interpolate(rates: Sequence[TrainingRate], parameters: int) -> float:
    """Interpolate between the logarithms of sizes and rates. Beyond the smallest and largest size, the rate stays the same."""
    import numpy as np  # the command line's help does not need it

    sizes, flops = np.log(np.array(rates)).T
    return math.exp(np.interp(math.log(parameters), sizes, flops))
