"""Estimate the peak memory of a run from shapes, row lengths and the recipe.

The peak of a step is the highest of these moments, each in addition to the weights, adapter and optimizer:

    freezing    the layers below the first adapter fill their cache, many rows at a time
    head        every adapted layer has saved its activations, and the head computes its first logits
    backward    the same, and the topmost layer computes its gradients
    bottom      the lowest adapted layer computes its gradients, and each stream has those of all other layers
    update      all activations are freed, but all gradients exist

Before the first step there is one more, ``loading``, when both the loaded and the converted weights exist, or, with 16-bit products on a
CPU, when the model's head is compared with its fast version, and four dense copies of it exist. Gradient
checkpointing (arXiv:1604.06174) saves the input of each layer, and the activations of one layer at a time. If rows still do not fit, they are
computed in segments, whose keys and values are kept with their gradients.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from mlxtune.planning import activations
from mlxtune.planning.activations import Kernels
from mlxtune.planning.machine import CACHE_LIMIT, Machine, computes_natively
from mlxtune.planning.shapes import ModelShapes, WeightShape
from mlxtune.planning.workload import BatchShape, Workload
from mlxtune.recipe import Recipe

CHUNK = 64  # positions whose logits exist at a time: models.head.CHUNK
AHEAD = 2 * CHUNK  # positions for whose logits MLX allocates arrays before those of the current chunks are done
GROUP = 4096  # tokens that the cache of the frozen layers computes at a time: training.frozen_cache.GROUP_TOKENS
READ_AHEAD = 50  # weights: MLX schedules about 100 operations ahead, and a weight is read and converted
CACHED = 8  # that cache may use 1/8 of the limit: training.setup.CACHE_MEMORY_DIVISOR
MAX_STREAMS = 4  # on a CPU: models.cpu.streams.MAX_STREAMS
BUFFERS = 32 * 2**20  # bytes of free buffers that MLX keeps on a CPU; on a GPU, up to CACHE_LIMIT
PROCESS = 128 * 2**20  # bytes of the interpreter and its libraries, measured on Linux
TRACE = 8 * 2**20  # bytes that MLX retains for each compiled step
SEGMENTS = (8192, 4096, 2048, 1024, 512, 256)  # tokens of a row that are computed at a time if a whole row does not fit
MARGIN = 0.2  # fraction of the limit that a plan with outcome "go" leaves free; 0.1 if it was measured

_OPTIMIZER_STATES = {"adamw": 2.0, "lion": 1.0, "muon": 1.0}


@dataclass(frozen=True)
class Coefficients:
    """Coefficients fitted to measured peaks. benchmarks/plan.py measures the peaks, and refits with --fit."""

    logits: float = 2.2  # arrays of (chunk, vocabulary) in float32 that the head holds at a time, per stream
    ahead: float = 1.9  # such arrays of each of the next two chunks, which MLX allocates before the current ones are done
    backward: float = 1.8  # times one layer's activations: added by its backward pass
    freezing: float = 1.5  # times one layer's activations: needed by frozen layers that fill the cache, although they save nothing
    update: float = 4.1  # times the adapter: its gradients, the array for their norm, the clipped gradients, and the new values


# In 16 bits, the head computes its gradient in more operations, for which MLX also allocates ahead: see models.head.
NATIVE_COEFFICIENTS = Coefficients(logits=7.5, ahead=6.0)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak ``moment`` of the largest batch, by part. ``loading`` is the peak before the first step.

    ``buffers`` and ``process`` (the interpreter, its libraries and compiled steps) are not part of MLX's peak. A reference model takes no memory: it is the base itself.
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
    process: int
    moment: str
    batch: BatchShape
    checkpointed: bool
    segment: int = 0  # tokens of a row that are computed at a time; 0 for whole rows

    @property
    def rest(self) -> int:
        """Bytes that are in use throughout the run."""
        return self.weights + self.adapter + self.optimizer

    @property
    def step(self) -> int:
        return self.rest + self.gradients + self.activations + self.head + self.frozen

    @property
    def before(self) -> int:
        """The bytes by which loading exceeds a step, or 0 if it does not."""
        return max(0, self.loading - self.step)

    @property
    def peak(self) -> int:
        """The final value of ``mx.get_peak_memory()``."""
        return self.step + self.before

    @property
    def total(self) -> int:
        return self.peak + self.buffers + self.process


def estimate(
    shapes: ModelShapes, recipe: Recipe, work: Workload, machine: Machine, *, cached: bool, checkpointed: bool, scale: float = 1.0,
    coefficients: Coefficients | None = None, kernels: Kernels | None = None, segment: int = 0,
) -> MemoryEstimate:  # fmt: skip
    """Estimate the peak of the largest batch.

    ``cached``: the outputs of the frozen layers are cached across epochs. ``scale`` is the measured working memory relative to this
    estimate, from a probe. ``segment`` is the number of tokens of a row that are computed at a time, 0 for whole rows.
    """
    kernels = kernels or kernels_for(machine)
    coefficients = coefficients or (Coefficients() if kernels.float32 else NATIVE_COEFFICIENTS)
    step = _Step(shapes, recipe, machine, cached, checkpointed, scale, coefficients, kernels)
    estimates = (step.estimate(batch.in_segments(segment), work) for batch in work.batches)
    return replace(max(estimates, key=lambda estimate: estimate.step), segment=segment)


def needs_checkpointing(
    shapes: ModelShapes, recipe: Recipe, work: Workload, machine: Machine, *, cached: bool, scale: float = 1.0
) -> bool:
    """Decide ``training.grad_checkpoint = "auto"``: true if the plain step does not fit with a margin."""
    return not _fits(estimate(shapes, recipe, work, machine, cached=cached, checkpointed=False, scale=scale), machine)


def needed_segment(shapes: ModelShapes, recipe: Recipe, work: Workload, machine: Machine, *, scale: float = 1.0) -> int:
    """Return the most tokens of a row that can be computed at a time, if checkpointed rows do not fit; 0 if they do, or if nothing helps."""
    for segment in (0, *SEGMENTS):
        part = estimate(shapes, recipe, work, machine, cached=False, checkpointed=True, scale=scale, segment=segment)
        if _fits(part, machine):
            return segment
    return 0


def _fits(estimate: MemoryEstimate, machine: Machine) -> bool:
    return estimate.step + estimate.buffers + estimate.process <= (1 - MARGIN) * machine.limit


def uses_frozen_cache(shapes: ModelShapes, recipe: Recipe, work: Workload, *, plain: bool) -> bool:
    """Return whether later epochs or a reference reuse the frozen layers' outputs. ``plain``: every layer has full attention."""
    setting = recipe.training.cache_frozen
    frozen = plain and shapes.first_trained_layer(shapes.adapter_targets(recipe.adapter)) > 0
    reused = work.epochs > 1 or recipe.method.needs_reference
    return frozen and (setting is True or (setting == "auto" and reused))


def frozen_group_rows(batch: BatchShape, work: Workload) -> int:
    """Return how many rows of the length in ``batch`` the frozen layers' cache computes at a time."""
    return max(batch.rows, min(GROUP - batch.prefix, work.cached_positions) // batch.width)


def kernels_for(machine: Machine) -> Kernels:
    if not computes_natively(machine.backend):
        return activations.CPU
    return activations.CPU_NATIVE if machine.backend == "cpu" else activations.NATIVE


class _Step:
    def __init__(
        self, shapes: ModelShapes, recipe: Recipe, machine: Machine, cached: bool, checkpointed: bool, scale: float,
        coefficients: Coefficients, kernels: Kernels,
    ) -> None:  # fmt: skip
        self.shapes, self.recipe, self.machine, self.cached = shapes, recipe, machine, cached
        self.checkpointed, self.scale, self.coefficients = checkpointed, scale, coefficients
        section = recipe.adapter
        targets = shapes.adapter_targets(section)
        self.first_layer = shapes.first_trained_layer(targets)
        self.number_size = 4 if kernels.float32 else shapes.embedding.size
        self.layers = [
            activations.layer_activations(shapes, weights, [weight for weight in targets if weight.layer == i], section, kernels)
            for i, weights in enumerate(shapes.layers)
        ]
        size = partial(WeightShape.loaded_nbytes, float32=kernels.float32, quantize=recipe.model.quantize)
        self.weights = sum(map(size, shapes.weights))
        # the CPU's 16-bit products make packed weights dense, in float32 (models.cpu.exp). mx.compile merges equal ones, so
        # the dense weights of adapted layers exist from the forward to the backward pass, for all streams; as measured, the head's exist twice.
        dense = machine.backend == "cpu" and not kernels.float32 and (recipe.model.quantize or shapes.embedding.bits)
        self.dense_head = 2 * 4 * shapes.embedding.numbers if dense else 0
        inner = sum(weight.numbers for layer in shapes.layers[self.first_layer :] for weight in layer if weight.is_matrix)
        self.dense_layers = 4 * inner if dense else 0
        arrays = []  # the shapes of each adapter's A, B and magnitude
        for *experts, rows, columns in (weight.shape for weight in targets):
            magnitude = [(rows,)] if section.kind == "dora" else []
            arrays.append([(*experts, columns, section.rank), (*experts, section.rank, rows), *magnitude])
        self.adapter = 4 * sum(map(_numbers, arrays))
        packed = [weight for weight in shapes.weights if weight.bits and kernels.float32]
        # packed weights become 32-bit integers, and then dense weights, one matrix at a time
        dense_matrix = max((4 * weight.numbers - weight.nbytes for weight in packed), default=0)
        converting = sum(weight.nbytes for weight in packed) + dense_matrix + _read_ahead(shapes, recipe, kernels)
        self.loading = self.weights + max(converting, self.adapter + 2 * self.dense_head if dense else 0)
        self.optimizer = round(4 * sum(_optimizer_numbers(shapes, recipe.training.optimizer) for shapes in arrays))

    def estimate(self, batch: BatchShape, work: Workload) -> MemoryEstimate:
        moments = self._moments(batch, work)
        moment = max(moments, key=lambda name: sum(moments[name]))
        gradients, saved, head = (round(self.scale * part) for part in moments[moment])
        cache = work.cached_positions * self.shapes.width * self.number_size
        estimate = MemoryEstimate(
            weights=self.weights, adapter=self.adapter, optimizer=self.optimizer, gradients=gradients, activations=saved, head=head,
            frozen=min(cache, self.machine.limit // CACHED) if self.cached else 0, loading=self.loading, buffers=BUFFERS,
            process=PROCESS + TRACE * work.traces, moment=moment, batch=batch, checkpointed=self.checkpointed,
        )  # fmt: skip
        if self.machine.backend == "cpu":
            return estimate
        # a GPU keeps buffers that a step has used, up to a limit, and releases them if memory runs short
        room = round((1 - MARGIN) * self.machine.limit) - estimate.peak - estimate.process
        return replace(estimate, buffers=max(0, min(CACHE_LIMIT, estimate.step - estimate.rest, room)))

    def _moments(self, batch: BatchShape, work: Workload) -> dict[str, tuple[float, float, float]]:
        shapes, factors = self.shapes, self.coefficients
        trained = [layer.nbytes(batch) for layer in self.layers[self.first_layer :]]
        hidden = batch.tokens * shapes.width * self.number_size
        inputs = hidden * shapes.residual_streams * len(trained)
        saved, top = (inputs, max(trained, default=0)) if self.checkpointed else (sum(trained), 0)
        # the segments' keys and values, apart and joined, and their gradients, of one segment and of all later ones
        kept = 4 * batch.rows * (batch.earlier + batch.width) * sum(layer.join for layer in self.layers) if batch.earlier else 0
        saved += hidden + kept  # the input of the final norm
        last = (inputs if self.checkpointed else sum(trained)) / max(1, len(trained)) + kept  # saved by the lowest adapted layer
        streams = min(MAX_STREAMS, self.machine.cores, batch.rows) if self.machine.backend == "cpu" else 1
        current = min(batch.trained, streams * CHUNK)
        positions = factors.logits * current + factors.ahead * min(AHEAD, batch.trained - current)
        head_states = batch.trained * shapes.width * (self.number_size + 4)  # the head's inputs and their gradient
        logits = positions * shapes.vocabulary * 4 + self.dense_head
        layer = factors.backward * max(trained, default=0)
        dense = self.dense_layers
        accumulated = self.adapter if self.recipe.training.accumulate > 1 else 0
        moments = {
            "head": (float(accumulated), float(saved + dense), head_states + logits),
            "backward": (float(accumulated), saved + top + layer + dense, float(head_states)),
            "bottom": (float(accumulated + streams * self.adapter), last + top + layer + dense / max(1, len(trained)), 0.0),
            "update": (factors.update * self.adapter, 0.0, 0.0),
        }
        if self.cached:
            group = BatchShape(frozen_group_rows(batch, work), batch.width, batch.prefix, 0, batch.sides)
            frozen = max(layer.nbytes(group) for layer in self.layers[: self.first_layer])
            moments["freezing"] = (0.0, factors.freezing * frozen, 0.0)
        return moments


def _read_ahead(shapes: ModelShapes, recipe: Recipe, kernels: Kernels) -> int:
    """Return the bytes of weights that are converted or quantized on load, as far ahead, layer by layer, as MLX reads them."""
    if not ((kernels.float32 and shapes.embedding.size < 4) or recipe.model.quantize):
        return 0
    outer = max((weight.nbytes for weight in shapes.weights if weight.layer < 0 and not weight.bits), default=0)
    inner = (weight.nbytes for layer in shapes.layers for weight in layer if not weight.bits)
    return outer + sum(islice(inner, READ_AHEAD))


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _optimizer_numbers(shapes: list[tuple[int, ...]], optimizer: str) -> float:
    """Return how many numbers an optimizer keeps for an adapter. Adafactor keeps sums over a matrix's rows and columns."""
    if optimizer != "adafactor":
        return _OPTIMIZER_STATES[optimizer] * _numbers(shapes)
    return sum(_numbers([shape[:-1], (*shape[:-2], shape[-1])]) if len(shape) > 1 else shape[0] for shape in shapes)
