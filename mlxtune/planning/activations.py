"""The activations that a layer saves for its backward pass, counted from its shapes.

MLX saves whatever a gradient needs. In a transformer layer, these are the input of each norm; the input of each adapter, and its
product with A; queries, keys, values and attention probabilities; the MLP's gate, its other factor, and their product. A
frozen matrix saves nothing, because the gradient of its input needs only the matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.planning.shapes import ModelShapes, WeightShape, computes_scores
from mlxtune.planning.workload import BatchShape
from mlxtune.recipe import AdapterSection

_FLOAT = 4  # bytes; adapters are trained in float32 on every compute path


@dataclass(frozen=True)
class Kernels:
    """The arrays that a compute path's norms, attention and gates save."""

    float32: bool  # everything is computed in float32, with dense weights
    upcast: bool  # norms, attention and a SiLU gate save float32 arrays, whatever the model's dtype is
    output: bool  # attention also saves its output
    silu: int  # arrays of the MLP's width that a product with such a gate saves
    gelu: float  # the same
    block: int = 0  # queries per attention block in a long row, where each block reads only the keys it needs; 0: not blocked
    mask: bool = False  # each layer saves its causal mask, one byte per query and key

    def scores(self, tokens: int, before: int) -> int:
        """Return the number of query-key pairs in a row of ``tokens`` that follow ``before`` other tokens."""
        block = self.block if 0 < 2 * self.block <= tokens else tokens  # the same condition as in models.cpu.exp.attention
        ends = ((start, min(start + block, tokens)) for start in range(0, tokens, block))
        return sum((end - start) * (before + end) for start, end in ends)


# MLX's own attention is not fused in training, not even on Metal: see its ScaledDotProductAttention::use_fallback. On a CPU, attention
# and a SiLU gate come from models.cpu.exp, and MLX's norms compute in float32. mx.compile merges equal operations of the forward and the
# backward pass, so that compiled gates save arrays that they would otherwise compute again.
NATIVE = Kernels(float32=False, upcast=False, output=False, silu=4, gelu=6, mask=True)
CPU_NATIVE = Kernels(float32=False, upcast=True, output=True, silu=3, gelu=6, block=128)
CPU = Kernels(float32=True, upcast=True, output=True, silu=2, gelu=5.5, block=128)


@dataclass(frozen=True)
class LayerActivations:
    """Bytes that one layer saves."""

    fixed: int
    position: int  # per computed position
    score: int  # per query-key pair of all heads
    join: int  # per position whose keys and values are joined with a prefix
    kernels: Kernels

    def nbytes(self, batch: BatchShape) -> int:
        """Return the bytes saved for ``batch``: its rows and the prefix, or both sequences of each pair."""
        before = batch.prefix + batch.earlier
        scores, joined = batch.rows * self.kernels.scores(batch.width, before), batch.rows * before
        if len(batch.sides) == 1:  # a pair in one row has a mask of its own, so all queries read all keys
            scores = batch.rows * batch.width * (batch.prefix + batch.width)
        elif batch.sides:
            scores = batch.rows * sum(self.kernels.scores(side, 0) for side in batch.sides)
        scores += self.kernels.scores(batch.prefix, 0) if batch.prefix else 0
        masks = scores // batch.rows if self.kernels.mask and self.score else 0
        return self.fixed + self.position * batch.tokens + self.score * scores + masks + self.join * joined


def layer_activations(
    shapes: ModelShapes, weights: Sequence[WeightShape], targets: Sequence[WeightShape], section: AdapterSection, kernels: Kernels
) -> LayerActivations:
    """Return the size of what a layer with ``weights`` saves when ``targets`` have adapters."""
    size = _FLOAT if kernels.float32 else min(weight.size for weight in weights)
    upcast = _FLOAT if kernels.upcast else size
    query, key = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    mlp_width, gated = _mlp(shapes, weights)
    norms = 0  # the inputs of all norms per position
    for weight in weights:
        if len(weight.shape) == 1 and "norm" in weight.name:
            per_head = query if "q_norm" in weight.name else key if "k_norm" in weight.name else 0
            norms += shapes.width if weight.shape[0] == shapes.width else per_head
    gate = 2 * size if not gated else kernels.gelu * size if shapes.gelu else kernels.silu * upcast
    position = upcast * (norms + query * (1 + kernels.output) + 2 * key) + round(gate * mlp_width)
    position += sum(_adapter(shapes, weight, section, kernels) for weight in targets)
    if not section.dropout:  # adapters convert their inputs to float32; q, k and v share theirs, and so do gate and up
        inputs = {(weight.is_attention, weight.is_output_projection): _inputs(shapes, weight) for weight in targets}
        position += _FLOAT * sum(inputs.values())
    dense = sum(size * weight.numbers for weight in targets) if section.kind == "dora" and not kernels.float32 else 0
    score = shapes.heads * upcast if computes_scores(weights) else 0
    return LayerActivations(dense, position, score, 2 * key * upcast, kernels)


def _adapter(shapes: ModelShapes, weight: WeightShape, section: AdapterSection, kernels: Kernels) -> int:
    columns, rows = _inputs(shapes, weight), weight.shape[-2] if len(weight.shape) > 1 else 0
    saved = _FLOAT * section.rank
    if section.dropout:
        saved += 2 * _FLOAT * columns  # the mask as numbers, and the masked input
    if section.kind == "dora":
        saved += (_FLOAT if kernels.float32 else weight.size) * rows  # the input of the magnitude
    return saved


def _inputs(shapes: ModelShapes, weight: WeightShape) -> int:
    """Return the number of inputs to ``weight`` per position, summed over all active experts."""
    return weight.shape[-1] * (shapes.active_experts if len(weight.shape) == 3 else 1)


def _mlp(shapes: ModelShapes, weights: Sequence[WeightShape]) -> tuple[int, bool]:
    """Return the inner width of the MLP per position, and whether it is gated (twice as many inputs as outputs)."""
    down = up = 0
    for weight in weights:
        if weight.is_attention or len(weight.shape) < 2:
            continue
        rows, columns = weight.shape[-2:]
        experts = shapes.active_experts if len(weight.shape) == 3 else 1
        if weight.is_output_projection:
            down += columns * experts
        elif columns == shapes.width:
            up += rows * experts
    return down, 2 * up >= 3 * down
