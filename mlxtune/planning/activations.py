"""What a layer keeps for its backward pass, counted from its shapes.

MLX keeps whatever a gradient asks for. In a transformer's layer that is the input of each norm; what enters each adapter, and that
times A; queries, keys, values and the attention's probabilities; the gate, what it multiplies, and their product. A frozen matrix
keeps nothing: its gradient towards the input needs only itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.planning.shapes import Shapes, Weight
from mlxtune.planning.workload import Batch
from mlxtune.recipe import AdapterSection

_FLOAT = 4  # bytes; adapters learn in float32 on every path


@dataclass(frozen=True)
class Kernels:
    """What the attention and the gate of a compute path keep, in numbers for each that goes in.

    ``float32`` says that everything computes in it, on dense weights. ``output``: attention keeps what it gives, too. ``gated``:
    arrays of the inner width that a gated product keeps beside its result. ``block``: queries of a
    long row that are looked at together, and only with the keys that any of them may see; 0 where all are.
    """

    float32: bool
    output: bool
    gated: int
    block: int = 0

    def scores(self, tokens: int, before: int) -> int:
        """Pairs of a query and a key that a row of ``tokens`` has behind ``before`` others."""
        block = self.block if 0 < 2 * self.block <= tokens else tokens  # as models.cpu.attention decides
        return sum(
            (min(start + block, tokens) - start) * (before + min(start + block, tokens)) for start in range(0, tokens, block)
        )


# MLX's own attention is not fused in training on Metal either: its ScaledDotProductAttention::use_fallback says so.
# On the CPU in float32 attention and gate are those of models.cpu, which keep less.
NATIVE = Kernels(float32=False, output=False, gated=4)
CPU = Kernels(float32=True, output=True, gated=2, block=128)


@dataclass(frozen=True)
class Layer:
    """What one layer keeps, in bytes: ``fixed``, for each ``position`` computed, for each ``score`` (query and key of a head), and
    for each key and value that is joined with a prefix (``join``, for a position)."""

    fixed: int
    position: int
    score: int
    join: int
    kernels: Kernels

    def kept(self, batch: Batch) -> int:
        """Bytes for ``batch``: its rows behind the prefix, and the prefix by itself; or its prompts, and each side behind its own."""
        scores, joined = batch.rows * self.kernels.scores(batch.width, batch.prefix), batch.rows * batch.prefix
        if batch.sides:
            *prompts, chosen, rejected = batch.sides
            before = batch.prefix + sum(prompts)
            scores = batch.rows * sum(self.kernels.scores(side, before) for side in (chosen, rejected))
            scores += batch.rows * sum(self.kernels.scores(prompt, batch.prefix) for prompt in prompts)
            joined += 2 * batch.rows * before
        scores += self.kernels.scores(batch.prefix, 0) if batch.prefix else 0
        return self.fixed + self.position * batch.tokens + self.score * scores + self.join * joined


def layer(shapes: Shapes, weights: Sequence[Weight], chosen: Sequence[Weight], section: AdapterSection, kernels: Kernels) -> Layer:
    """What the layer of ``weights`` keeps, of which ``chosen`` have adapters."""
    size = _FLOAT if kernels.float32 else min(weight.size for weight in weights)
    query, key = shapes.heads * shapes.head_width, shapes.kv_heads * shapes.head_width
    inner, gated = _inner(shapes, weights)
    norms = sum(_normed(weight, shapes.width, query, key) for weight in weights if len(weight.shape) == 1)
    gate = kernels.gated if gated else 2
    numbers = norms + query * (1 + kernels.output) + 2 * key + gate * inner
    position = size * numbers + sum(_adapter(shapes, weight, section, kernels) for weight in chosen)
    if kernels.float32 and not section.dropout:
        entering = {(weight.attends, weight.leaves): _columns(shapes, weight) for weight in chosen}  # q, k and v share theirs
        position += _FLOAT * sum(entering.values())
    probabilities = size if kernels.float32 else size + _FLOAT  # a softmax in float32, and its result in the model's dtype
    dense = sum(size * weight.numbers for weight in chosen) if section.kind == "dora" and not kernels.float32 else 0
    return Layer(dense, position, shapes.heads * probabilities, 2 * key * size, kernels)


def _adapter(shapes: Shapes, weight: Weight, section: AdapterSection, kernels: Kernels) -> int:
    """Bytes that one adapter keeps for a position."""
    columns, rows = _columns(shapes, weight), weight.shape[-2] if len(weight.shape) > 1 else 0
    kept = _FLOAT * section.rank
    if section.dropout:
        kept += 2 * _FLOAT * columns  # the mask as numbers, and what it left
    elif not kernels.float32:
        kept += _FLOAT * columns  # A is in float32, so each adapter converts what enters it
    if section.kind == "dora":
        kept += (_FLOAT if kernels.float32 else weight.size) * rows  # what the magnitude multiplies
    return kept


def _columns(shapes: Shapes, weight: Weight) -> int:
    """What enters ``weight`` for a position; every active expert is entered."""
    return weight.shape[-1] * (shapes.active if len(weight.shape) == 3 else 1)


def _inner(shapes: Shapes, weights: Sequence[Weight]) -> tuple[int, bool]:
    """Numbers inside the MLP for a position, and whether they are gated: twice as many go in as come out."""
    down = up = 0
    for weight in weights:
        if weight.attends or len(weight.shape) < 2:
            continue
        rows, columns = weight.shape[-2:]
        many = shapes.active if len(weight.shape) == 3 else 1
        if weight.leaves:
            down += columns * many
        elif columns == shapes.width:
            up += rows * many
    return down, 2 * up >= 3 * down


def _normed(weight: Weight, width: int, query: int, key: int) -> int:
    """Numbers that enter a norm with this weight, for a position; 0 for what is no norm."""
    if "norm" not in weight.name:
        return 0
    if weight.shape[0] == width:
        return width
    return query if "q_norm" in weight.name else key if "k_norm" in weight.name else 0
