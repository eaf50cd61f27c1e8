"""The memory of a run at its worst moment, from shapes, lengths and the recipe.

A step's peak is the highest of these moments, all on top of weights, adapter and optimizer:

    freezing    the layers below the first adapter run for the cache, many rows together
    head        every adapted layer has kept its own, and the head computes its first logits
    backward    the same, and the topmost layer computes its gradients
    update      nothing is kept any more, but all gradients are there

Before the first step there is another, ``loading``: what was read and what is made of it are there together.
Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) keeps what enters each layer, and has one layer's own at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlxtune.planning import activations
from mlxtune.planning.activations import Kernels
from mlxtune.planning.machine import Machine
from mlxtune.planning.shapes import Shapes, Weight
from mlxtune.planning.workload import Batch, Workload
from mlxtune.recipe import Recipe

# What shapes do not say was fitted to measured peaks: benchmarks/plan.py measures them, and fits again with --fit.
LOGITS = 1.8  # arrays of (chunk, vocabulary) in float32 that the head has at a time, in each lane
AHEAD = 2.2  # such arrays of the next chunk, which MLX allocates before the first is done
BACKWARD = 1.8  # of what one layer keeps: what its backward pass adds
FREEZING = 1.5  # of what one layer would keep: what frozen layers need while they run for the cache, though they keep nothing
UPDATE = 4.0  # times the adapter: its gradients, these divided and clipped, and the new values
PACKED = 1.5  # of the bytes of packed weights: what making dense ones of them adds for a while

CHUNK = 64  # positions whose logits exist at one time: models.head.CHUNK
GROUP = 4096  # tokens that the cache of the frozen layers computes together: training.frozen.GROUP_TOKENS
CACHED = 8  # that cache may take one part in so many of the limit: training.assemble.CACHED
LANES = 4  # at most, on a CPU: training.lanes.MOST
BUFFERS = 32 * 2**20  # bytes of freed buffers that MLX keeps on a CPU; on a GPU it gives them back under pressure
MARGIN = 0.2  # of the limit stays free before a plan says go; 0.1 once it was measured

_STATES = {"adamw": 2.0, "lion": 1.0, "muon": 1.0}


@dataclass(frozen=True)
class Coefficients:
    """The fitted numbers above, to be tried with others."""

    logits: float = LOGITS
    ahead: float = AHEAD
    backward: float = BACKWARD
    freezing: float = FREEZING
    update: float = UPDATE


@dataclass(frozen=True)
class Estimate:
    """Bytes at the worst moment of the worst batch, by part; ``moment`` names it. ``loading`` is the peak before the first step.
    ``buffers`` is no part of MLX's peak. A reference model takes nothing: it is the same one.
    """

    weights: int
    adapter: int
    optimizer: int
    gradients: int
    activations: int
    head: int
    frozen: int
    loading: int
    buffers: int
    moment: str
    batch: Batch
    checkpointed: bool

    @property
    def rest(self) -> int:
        """What is there all the time."""
        return self.weights + self.adapter + self.optimizer

    @property
    def step(self) -> int:
        """The peak of a step."""
        return self.rest + self.gradients + self.activations + self.head + self.frozen

    @property
    def before(self) -> int:
        """How much more than a step loading takes; none where a step takes more."""
        return max(0, self.loading - self.step)

    @property
    def peak(self) -> int:
        """What ``mx.get_peak_memory()`` will say in the end."""
        return self.step + self.before

    @property
    def total(self) -> int:
        """What the process needs."""
        return self.peak + self.buffers


def estimate(
    shapes: Shapes, recipe: Recipe, work: Workload, machine: Machine, *, cached: bool, checkpointed: bool, scale: float = 1.0,
    coefficients: Coefficients = Coefficients(), kernels: Kernels | None = None,
) -> Estimate:  # fmt: skip
    """The worst batch's peak. ``cached``: what enters the first adapted layer is kept over epochs. ``scale`` is what a probe found
    the working memory to be, relative to this estimate."""
    step = _Step(shapes, recipe, machine, cached, checkpointed, scale, coefficients, kernels or suitable(machine))
    return max((step.of(batch, work) for batch in work.shapes), key=lambda found: found.step)


def wants_checkpoint(shapes: Shapes, recipe: Recipe, work: Workload, machine: Machine, *, cached: bool, scale: float = 1.0) -> bool:
    """What ``training.grad_checkpoint = "auto"`` means: yes where the plain step would not fit with a margin."""
    plain = estimate(shapes, recipe, work, machine, cached=cached, checkpointed=False, scale=scale)
    return plain.step + plain.buffers > (1 - MARGIN) * machine.limit


def caches(shapes: Shapes, recipe: Recipe, work: Workload, *, plain: bool) -> bool:
    """Whether the run keeps what enters the first adapted layer: where layers are frozen, and epochs or a reference come back to them."""
    wish = recipe.training.cache_frozen
    frozen = plain and shapes.first(shapes.adapted(recipe.adapter)) > 0
    again = work.epochs > 1 or recipe.method.referred
    return frozen and (wish is True or (wish == "auto" and again))


def grouped(batch: Batch, work: Workload) -> int:
    """How many rows as long as those of ``batch`` the cache of the frozen layers computes together."""
    return max(batch.rows, min(GROUP - batch.prefix, work.kept) // batch.width)


def suitable(machine: Machine) -> Kernels:
    """How ``machine`` computes."""
    return activations.CPU if machine.backend == "cpu" else activations.NATIVE


class _Step:
    """A recipe's step on a machine, for any batch."""

    def __init__(
        self, shapes: Shapes, recipe: Recipe, machine: Machine, cached: bool, checkpointed: bool, scale: float,
        coefficients: Coefficients, kernels: Kernels,
    ) -> None:  # fmt: skip
        self.shapes, self.recipe, self.machine, self.cached = shapes, recipe, machine, cached
        self.checkpointed, self.scale, self.factors, self.kernels = checkpointed, scale, coefficients, kernels
        section = recipe.adapter
        adapted = shapes.adapted(section)
        self.first = shapes.first(adapted)
        self.size = 4 if kernels.float32 else shapes.embedding.size
        self.layers = [
            activations.layer(shapes, weights, [one for one in adapted if one.layer == number], section, kernels)
            for number, weights in enumerate(shapes.layers)
        ]
        self.weights = sum(weight.held(float32=kernels.float32, quantize=recipe.model.quantize) for weight in shapes.weights)
        packed = sum(weight.saved for weight in shapes.weights if weight.bits) if kernels.float32 else 0
        self.loading = self.weights + round(PACKED * packed or max(weight.saved for weight in shapes.weights))
        pairs = [_pair(weight, section.rank, magnitude=section.kind == "dora") for weight in adapted]
        self.adapter = 4 * sum(map(_numbers, pairs))
        self.optimizer = round(4 * sum(_states(pair, recipe.training.optimizer) for pair in pairs))

    def of(self, batch: Batch, work: Workload) -> Estimate:
        moments = self._moments(batch, work)
        moment = max(moments, key=lambda name: sum(moments[name]))
        gradients, kept, head = (round(self.scale * part) for part in moments[moment])
        frozen = min(work.kept * self.shapes.width * self.size, self.machine.limit // CACHED) if self.cached else 0
        buffers = BUFFERS if self.machine.backend == "cpu" else 0
        return Estimate(
            self.weights, self.adapter, self.optimizer, gradients, kept, head, frozen, self.loading, buffers, moment, batch,
            self.checkpointed,
        )  # fmt: skip

    def _moments(self, batch: Batch, work: Workload) -> dict[str, tuple[float, float, float]]:
        """Gradients, activations and head at each moment."""
        shapes, factors = self.shapes, self.factors
        above = self.layers[self.first :]
        hidden = batch.tokens * shapes.width * self.size
        if self.checkpointed:
            kept, top = hidden * len(above), max((one.kept(batch) for one in above), default=0)
        else:
            kept, top = sum(one.kept(batch) for one in above), 0
        kept += hidden  # the final norm's
        lanes = self._lanes(batch)
        positions = -(-batch.trained // lanes)
        chunks = factors.logits * min(CHUNK, positions) + factors.ahead * min(CHUNK, max(0, positions - CHUNK))
        unit = batch.trained * shapes.width * (self.size + 4)  # the hidden states that the head sees, and its gradient towards them
        logits = lanes * chunks * shapes.vocabulary * 4
        summed = self.adapter if self.recipe.training.accumulate > 1 else 0
        widest = max((one.kept(batch) for one in above), default=0)
        moments = {
            "head": (float(summed), float(kept), unit + logits),
            "backward": (float(summed), kept + top + factors.backward * widest, float(unit)),
            "update": (factors.update * self.adapter, 0.0, 0.0),
        }
        if self.cached:
            group = Batch(grouped(batch, work), batch.width, batch.prefix, 0, batch.sides)
            moments["freezing"] = (0.0, factors.freezing * max(one.kept(group) for one in self.layers[: self.first]), 0.0)
        return moments

    def _lanes(self, batch: Batch) -> int:
        return min(LANES, self.machine.cores, batch.rows) if self.machine.backend == "cpu" else 1


def _pair(weight: Weight, rank: int, *, magnitude: bool) -> list[tuple[int, ...]]:
    """The shapes of an adapter's arrays."""
    *experts, rows, columns = weight.shape
    return [(*experts, columns, rank), (*experts, rank, rows), *([(rows,)] if magnitude else [])]


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes:
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def _states(shapes: list[tuple[int, ...]], optimizer: str) -> float:
    """Numbers that an optimizer keeps for an adapter; Adafactor keeps the sums of rows and columns of a matrix."""
    if optimizer != "adafactor":
        return _STATES[optimizer] * _numbers(shapes)
    return sum(_numbers([shape[:-1], (*shape[:-2], shape[-1])]) if len(shape) > 1 else shape[0] for shape in shapes)
