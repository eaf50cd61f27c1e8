"""Log-probabilities at the trained positions only, without ever holding ``(tokens, vocabulary)``.

A language model is a backbone and a head. The loss needs the head where a token trains, and nowhere else. With a frozen head
one pass is enough: for position i with hidden state h and target t,

    log p = h·W[t] − logsumexp(h·Wᵀ)        d log p / d h = W[t] − softmax(h·Wᵀ)·W

so the forward pass can compute the gradient row by row, in chunks, and let the logits go (the idea of Liger's and Cut
Cross-Entropy's fused losses: arXiv:2410.10989, arXiv:2411.09009). Where no gradient will be asked for, the second line is left out.
Some architectures bend the logits x = h·Wᵀ + b to z = cap·tanh(scale·x / cap); then each term of the gradient has a factor
d z / d x = scale·(1 − (z / cap)²).

Other heads, and those that train, run the model's own code in chunks that the backward pass computes again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlxtune.models.cpu import exp_of_negative

CHUNK = 64  # positions whose logits exist at one time

_quantized_matmul: Callable[..., mx.array] = mx.quantized_matmul
_dequantize: Callable[..., mx.array] = mx.dequantize

LogProbabilities = Callable[[mx.array, mx.array], mx.array]
Logits = Callable[[mx.array], mx.array]

_BACKBONES = ("model", "transformer", "backbone")
_LINEAR = nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding
_PROBE = (1, 32, 63, 5, 94, 12, 9, 21)  # tokens that any vocabulary has
_STRETCH = 8  # the probe also sees hidden states this many times as large, where a cap cannot hide


@dataclass(frozen=True)
class Split:
    """A model in two.

    ``backbone(tokens, cache or None)`` gives hidden states ``(batch, tokens, width)``, ``logits(hidden)`` the scores of the vocabulary, and
    ``logp(hidden, targets)`` log-probabilities ``(positions,)``; ``score`` gives the same where no gradient will be asked for.
    ``warning`` is what to tell the user if the quick way did not agree with the model's own forward pass. Where even the halves do not, ``backbone`` is the whole model and its "hidden states" are
    the logits.
    """

    backbone: Callable[..., mx.array]
    logits: Logits
    logp: LogProbabilities
    score: LogProbabilities
    warning: str = ""


@dataclass(frozen=True)
class _Halves:
    """Where a model comes apart: ``inner`` holds the backbone, by ``name``, and does the rest."""

    inner: nn.Module
    name: str

    @property
    def backbone(self) -> Any:
        return getattr(self.inner, self.name)

    @property
    def around(self) -> list[nn.Module]:
        """What is outside of the layers, the head or what it is tied to among it."""
        found = (*self.inner.children().values(), *self.backbone.children().values())
        return [module for module in found if isinstance(module, nn.Module) and module is not self.backbone]

    def logits(self, hidden: mx.array) -> mx.array:
        """The model's own code on ``hidden`` ``(..., width)``: whatever it does behind its backbone."""
        alone = copy.copy(self.inner)
        setattr(alone, self.name, _Given(self.backbone, hidden.reshape(1, -1, hidden.shape[-1])))
        out: mx.array = alone(hidden)
        return out.reshape(*hidden.shape[:-1], -1)


class _Given:
    """Stands in for a backbone whose hidden states are there already."""

    def __init__(self, backbone: nn.Module, hidden: mx.array) -> None:
        self.backbone, self.hidden = backbone, hidden

    def __call__(self, *_: Any, **__: Any) -> mx.array:
        return self.hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)


def split(model: nn.Module) -> Split:
    """``model`` as backbone and head, the quickest way that agrees with the model's own forward pass.

    In one pass where the head is frozen and a matrix product, perhaps scaled and capped; in chunks through the model's own code
    where the head trains or does something else; in full where the model does not come apart. Call it when adapters are on.
    """
    whole = Split(
        lambda tokens, cache=None: model(tokens, cache=cache),
        lambda logits: logits,
        plain_logp,
        plain_logp,
        "this architecture's head cannot be computed apart: computing it in full",
    )
    try:
        halves = _halves(model)
        return _proved(model, halves) or whole if halves else whole
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        return whole  # an unusual architecture: the whole model is always right


def _halves(model: nn.Module) -> _Halves | None:
    inner = model
    while isinstance(getattr(inner, "language_model", None), nn.Module):
        inner = inner.language_model
    return next((_Halves(inner, name) for name in _BACKBONES if isinstance(getattr(inner, name, None), nn.Module)), None)


def _proved(model: nn.Module, halves: _Halves) -> Split | None:
    """The first way that gives the model's own scores on a few tokens; ``None`` where none does, or the backbone gives them itself."""
    tokens = mx.array([_PROBE])
    hidden, expected = halves.backbone(tokens, None)[0], model(tokens)[0]
    if hidden.shape == expected.shape or not _agree(halves.logits(hidden), expected, expected):
        return None
    states = mx.concatenate([hidden, hidden * _STRETCH])
    own = halves.logits(states)
    targets = mx.concatenate([tokens[0], tokens[0]])
    scale, cap = _bend(halves.inner)
    for head in halves.around:
        if not isinstance(head, _LINEAR) or tree_flatten(head.trainable_parameters()):
            continue
        if _Matrix(head).shape != (own.shape[-1], hidden.shape[-1]):
            continue
        logits, logp = _logits(head, scale, cap), one_pass(head, scale=scale, cap=cap)
        if _agree(logits(states), own, own) and _agree(logp(states, targets), plain_logp(own, targets), own):
            return Split(halves.backbone, logits, logp, forward_only(head, scale=scale, cap=cap))
    trained = any(tree_flatten(module.trainable_parameters()) for module in halves.around)
    warning = "" if trained else "this architecture's head is not a plain one: computing it twice, in chunks"
    logp = in_chunks(halves.logits, halves.around)
    return Split(halves.backbone, halves.logits, logp, logp, warning)


def _bend(inner: nn.Module) -> tuple[float, float]:
    """What the architecture's settings say about its logits: their scale, and their cap or 0."""
    args = getattr(inner, "args", None)
    scale = (getattr(args, "logit_scale", None) or 1.0) / (getattr(args, "logits_scaling", None) or 1.0)
    return scale, getattr(args, "final_logit_softcapping", None) or 0.0


def _agree(found: mx.array, expected: mx.array, logits: mx.array) -> bool:
    """Whether two ways to a score differ by no more than rounding in the dtype of ``logits``, relative to their size."""
    tolerance = max(1e-4, 3 * mx.finfo(logits.dtype).eps) * magnitude(logits)
    worst = mx.abs(found.astype(mx.float32) - expected.astype(mx.float32)).max()
    return bool((worst <= tolerance).item())


def plain_logp(logits: mx.array, targets: mx.array) -> mx.array:
    """Log-probability ``(positions,)`` of ``targets`` under ``logits`` ``(positions, vocabulary)``, in float32."""
    logits = logits.astype(mx.float32)
    return mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)


def one_pass(head: nn.Module, chunk: int = CHUNK, *, scale: float = 1.0, cap: float = 0.0) -> LogProbabilities:
    """A differentiable ``logp(hidden (positions, width), targets (positions,)) -> (positions,)`` for a frozen linear head.

    Logits are multiplied by ``scale``, then capped by ``cap`` unless it is 0. Nothing reaches the head's own arrays.
    """
    matrix = _Matrix(head)

    @mx.custom_function
    def both(hidden: mx.array, targets: mx.array, *weights: mx.array) -> tuple[mx.array, mx.array]:
        logps: list[mx.array] = []
        slopes: list[mx.array] = []
        before: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part, wanted = _part(hidden, start, chunk, before), targets[start : start + chunk]
            logits = _bent(matrix.product(part, *weights).astype(mx.float32), scale, cap)
            own, power, total, logp = _softmax(logits, wanted)
            row = matrix.rows(wanted, *weights)
            if cap:
                power = power * (1 - mx.square(logits / cap))
                row = row * (1 - mx.square(own / cap))
            if part.dtype == mx.float32:
                mean = matrix.back(power, *weights) / total
            else:  # the sum of a vocabulary's powers may be more than 16 bits hold
                mean = matrix.back((power / total).astype(part.dtype), *weights)
            slope = (row - mean) * scale
            logps.append(logp)
            slopes.append(slope)
            before = [logp, slope]
        return mx.concatenate(logps), mx.concatenate(slopes)

    @both.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
        hidden, *rest = primals
        return ((cotangents[0][:, None] * outputs[1]).astype(hidden.dtype), *(mx.zeros_like(array) for array in rest))

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        outputs: Any = both(hidden, targets, *matrix.arrays)
        return outputs[0]

    return logp


def forward_only(head: nn.Module, chunk: int = CHUNK, *, scale: float = 1.0, cap: float = 0.0) -> LogProbabilities:
    """What :func:`one_pass` gives without its gradient, which is half of the products."""
    matrix = _Matrix(head)

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        logps: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part = _part(hidden, start, chunk, logps[-1:])
            logits = _bent(matrix.product(part, *matrix.arrays).astype(mx.float32), scale, cap)
            logps.append(_softmax(logits, targets[start : start + chunk])[-1])
        return mx.concatenate(logps)

    return logp


def _softmax(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """The targets' logits ``(positions, 1)``, e to the power of all logits, the sum of these, and log-probabilities ``(positions,)``."""
    own = mx.take_along_axis(logits, targets[:, None], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    power = exp_of_negative(top - logits)
    total = power.sum(axis=-1, keepdims=True)
    return own, power, total, (own - top - mx.log(total))[:, 0]


def in_chunks(logits: Logits, heads: Sequence[nn.Module], chunk: int = CHUNK) -> LogProbabilities:
    """A differentiable ``logp`` like :func:`one_pass`'s for any head; gradients reach what is trainable in ``heads`` too.

    The backward pass computes each chunk's logits again. Dropout inside a head is off, because it would drop other elements then.
    """

    def scored(targets: mx.array, hidden: mx.array, *trained: mx.array) -> mx.array:
        with _holding(heads, trained):
            return plain_logp(logits(hidden), targets)

    @mx.custom_function
    def whole(hidden: mx.array, targets: mx.array, *trained: mx.array) -> mx.array:
        logps: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            logps.append(scored(targets[start : start + chunk], _part(hidden, start, chunk, logps[-1:]), *trained))
        return mx.concatenate(logps)

    @whole.vjp
    def _(primals: Any, cotangent: Any, output: Any) -> Any:
        hidden, targets, *trained = primals
        slopes: list[mx.array] = []
        sums = [mx.zeros_like(array) for array in trained]
        for start in range(0, hidden.shape[0], chunk):
            part = _part(hidden, start, chunk, [*slopes[-1:], *sums])
            again = partial(scored, targets[start : start + chunk])
            _, (slope, *new) = mx.vjp(again, [part, *trained], [cotangent[start : start + chunk]])
            slopes.append(slope)
            sums = [total + array for total, array in zip(sums, new, strict=True)]
        return mx.concatenate(slopes), mx.zeros_like(targets), *sums

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        found: Any = whole(hidden, targets, *_trained(heads))
        return found

    return logp


@contextmanager
def _holding(modules: Sequence[nn.Module], arrays: Sequence[mx.array]) -> Iterator[None]:
    """Inside, ``modules`` have ``arrays`` for what they train, in the order of :func:`_trained`, and drop nothing."""
    held, modes = _trained(modules), [module.training for module in modules]
    _put(modules, arrays)
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        _put(modules, held)
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def _part(hidden: mx.array, start: int, chunk: int, before: list[mx.array]) -> mx.array:
    """A chunk of ``hidden`` that is computed after ``before``: without an order all logits are alive together."""
    part = hidden[start : start + chunk]
    return mx.depends([part], before)[0] if before else part


def _trained(modules: Sequence[nn.Module]) -> list[mx.array]:
    return [array for module in modules for _, array in tree_flatten(module.trainable_parameters())]


def _put(modules: Sequence[nn.Module], arrays: Sequence[mx.array]) -> None:
    values = iter(arrays)
    for module in modules:
        module.update(tree_map(lambda _: next(values), module.trainable_parameters()))


def _logits(head: nn.Module, scale: float, cap: float) -> Logits:
    matrix = _Matrix(head)
    return lambda hidden: _bent(matrix.product(hidden, *matrix.arrays), scale, cap)


def _bent(logits: mx.array, scale: float, cap: float) -> mx.array:
    if scale != 1:
        logits = logits * scale
    return mx.tanh(logits / cap) * cap if cap else logits


class _Matrix:
    """A linear head as arrays (W, or its quantised parts, then the bias if there is one) and what can be computed with them."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self.how: dict[str, Any] = {}
        self.count = 1
        if isinstance(head, nn.QuantizedLinear | nn.QuantizedEmbedding):
            self.how = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}
            self.count = 3 if head.get("biases") is not None else 2

    @property
    def shape(self) -> tuple[int, int]:
        """Vocabulary and width."""
        rows, columns = self.head.weight.shape
        return rows, columns * 32 // self.how["bits"] if self.how else columns

    @property
    def arrays(self) -> list[mx.array]:
        """Read anew each time: inside ``mx.compile`` the module holds other arrays than outside."""
        names = ("weight", "scales", "biases", "bias")
        return [self.head[name] for name in names if self.head.get(name) is not None]

    def product(self, x: mx.array, *arrays: mx.array) -> mx.array:
        """``x Wᵀ + b``"""
        weights, bias = arrays[: self.count], arrays[self.count :]
        out = _quantized_matmul(x, *weights, transpose=True, **self.how) if self.how else x @ weights[0].T
        return out + bias[0] if bias else out

    def back(self, g: mx.array, *arrays: mx.array) -> mx.array:
        """``g W``"""
        weights = arrays[: self.count]
        return _quantized_matmul(g, *weights, transpose=False, **self.how) if self.how else g @ weights[0]

    def rows(self, t: mx.array, *arrays: mx.array) -> mx.array:
        """``W[t]``"""
        taken = [array[t] for array in arrays[: self.count]]
        return _dequantize(*taken, **self.how) if self.how else taken[0]


def magnitude(values: mx.array) -> float:
    """The largest absolute value, at least 1: what an absolute tolerance is relative to."""
    return max(1.0, float(np.abs(np.array(values.astype(mx.float32))).max()))
