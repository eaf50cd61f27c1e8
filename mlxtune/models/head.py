"""Compute log-probabilities at the trained positions only, without materializing logits ``(tokens, vocabulary)``.

A language model consists of a backbone and a head. The loss needs the head only at trained tokens. With a frozen head, one
pass is enough: for position i with hidden state h and target t,

    log p = h·W[t] − logsumexp(h·Wᵀ)        d log p / d h = W[t] − softmax(h·Wᵀ)·W

so the forward pass can compute the gradient in chunks and drop the logits (as in the fused losses of Liger and Cut
Cross-Entropy: arXiv:2410.10989, arXiv:2411.09009). Without a gradient, the second formula is skipped. Some architectures scale
and cap the logits x = h·Wᵀ + b to z = cap·tanh(scale·x / cap); each term of the gradient then has the factor
d z / d x = scale·(1 − (z / cap)²).

In 16 bits, W[t] and softmax·W nearly cancel once p is close to 1, and their difference has lost its direction. There, the gradient is
computed as (1 − p)·(onehot(t) − q)·W, where q is the softmax over the other tokens. No number in it is rounded to 0, however small
1 − p is.

Other heads, and trainable heads, run the model's own code in chunks that the backward pass recomputes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import ConcatenateKVCache, make_prompt_cache

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.models.cpu.exp import exp_of_negative
from mlxtune.models.hooked_module import HookedModule

CHUNK = 64  # positions whose logits are in memory at the same time

_MX: Any = mx  # models.cpu may replace its functions
_dequantize: Callable[..., mx.array] = mx.dequantize

LogProbabilities = Callable[[mx.array, mx.array], mx.array]
Logits = Callable[[mx.array], mx.array]

_BACKBONES = ("model", "transformer", "backbone")
_LINEAR = nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding
_TEST_TOKENS = (1, 32, 63, 5, 94, 12, 9, 21)  # token IDs that exist in every vocabulary
_TEST_SCALE = 8  # the test also scales the hidden states by this factor, to expose a cap on the logits


@dataclass(frozen=True)
class BackboneHead:
    """A model split into backbone and head.

    ``backbone(tokens, cache or None)`` returns hidden states ``(batch, tokens, width)``, ``logits(hidden)`` the logits, and
    ``logp(hidden, targets)`` log-probabilities ``(positions,)``; ``logp_no_grad`` returns the same without a gradient.
    If ``is_split`` is False, ``backbone`` is the whole model and its "hidden states" are the logits. ``has_unusual_head`` means that the
    head is frozen but not a plain matrix multiplication, so that the gradient computes it again.
    """

    backbone: Callable[..., mx.array]
    logits: Logits
    logp: LogProbabilities
    logp_no_grad: LogProbabilities
    is_split: bool = True
    has_unusual_head: bool = False


@dataclass(frozen=True)
class _Parts:
    """A way to split a model: ``outer`` holds the backbone as attribute ``name``, and computes the rest."""

    outer: nn.Module
    name: str

    @property
    def backbone(self) -> Any:
        return getattr(self.outer, self.name)

    @property
    def head_modules(self) -> list[nn.Module]:
        """The modules outside the layers, including the head or the embedding that it is tied to."""
        children = (*self.outer.children().values(), *self.backbone.children().values())
        return [module for module in children if isinstance(module, nn.Module) and module is not self.backbone]

    def logits(self, hidden: mx.array) -> mx.array:
        """Run the part of the model after its backbone on ``hidden`` ``(..., width)``."""
        head_only = copy.copy(self.outer)
        positions = hidden.reshape(1, -1, hidden.shape[-1])
        setattr(head_only, self.name, HookedModule(self.backbone, lambda *_, **__: positions))
        out: mx.array = head_only(hidden)
        return out.reshape(*hidden.shape[:-1], -1)


@dataclass(frozen=True)
class _InnerParts:
    """A way to split a ``model`` whose backbone ``outer`` computes the logits itself, after its child ``norm``."""

    model: nn.Module
    outer: nn.Module
    norm: str

    @property
    def head_modules(self) -> list[nn.Module]:
        return [module for module in self.outer.children().values() if isinstance(module, nn.Module)]

    def backbone(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Return the norm's output. The logits are never computed, because nothing reads them."""
        norm, outputs = self.outer[self.norm], list[mx.array]()

        def recorded(hidden: mx.array) -> mx.array:
            outputs.append(norm(hidden))
            return outputs[-1]

        self._run_with(recorded, tokens, cache)
        return outputs[-1]

    def logits(self, hidden: mx.array) -> mx.array:
        """Run the part of the model after its norm on ``hidden`` ``(..., width)``. The layers are not computed."""
        positions = hidden.reshape(1, -1, hidden.shape[-1])
        out = self._run_with(lambda _: positions, mx.zeros(positions.shape[:2], mx.int32), None)
        return out.reshape(*hidden.shape[:-1], -1)

    def _run_with(self, norm: Callable[[mx.array], mx.array], tokens: mx.array, cache: Any) -> mx.array:
        original = self.outer[self.norm]
        try:
            self.outer[self.norm] = norm
            out: mx.array = self.model(tokens, cache=cache)
            return out
        finally:
            self.outer[self.norm] = original


def split_head(model: nn.Module) -> BackboneHead:
    """Split ``model`` into backbone and head, using the fastest method that matches the model's own forward pass.

    A frozen head that is a matrix multiplication, possibly scaled and capped, takes one pass. Any other head runs in chunks
    through the model's own code. A model that cannot be split runs as a whole. Call this after adapters are added.
    """
    whole = BackboneHead(
        lambda tokens, cache=None: model(tokens, cache=cache), lambda logits: logits, plain_logp, plain_logp, is_split=False
    )
    head = next((head for parts in _find_parts(model) if (head := _verified(model, parts))), whole)
    return _with_fresh_caches(head, model) if _shares_keys_through_caches(model) else head


def _shares_keys_through_caches(model: nn.Module) -> bool:
    """Whether the model's results differ without a cache, because some layers read the keys of others from the cache."""
    tokens = mx.array([_TEST_TOKENS])
    with suppress_model_errors():
        return not _agree(model(tokens), expected := model(tokens, cache=make_prompt_cache(model)), expected)
    return False


def _with_fresh_caches(head: BackboneHead, model: nn.Module) -> BackboneHead:
    """Return ``head`` with a backbone that fills new caches if it is given none. Their arrays are part of the graph."""
    count = len(make_prompt_cache(model))

    def backbone(tokens: mx.array, cache: Any = None) -> mx.array:
        return head.backbone(tokens, cache or [ConcatenateKVCache() for _ in range(count)])

    return replace(head, backbone=backbone)


def _find_parts(model: nn.Module) -> Iterator[_Parts | _InnerParts]:
    outer = model
    while isinstance(getattr(outer, "language_model", None), nn.Module):
        outer = outer.language_model
    yield from (_Parts(outer, name) for name in _BACKBONES if isinstance(getattr(outer, name, None), nn.Module))
    while inner := next((outer[name] for name in ("language_model", *_BACKBONES) if isinstance(outer.get(name), nn.Module)), None):
        outer = inner
    for name, child in outer.children().items():
        if isinstance(child, nn.Module) and "norm" in name:
            yield _InnerParts(model, outer, name)


@suppress_model_errors()
def _verified(model: nn.Module, parts: _Parts | _InnerParts) -> BackboneHead | None:
    """Return the first split that reproduces the model's logits on a few tokens.

    ``None`` if there is none, if the backbone returns the logits itself, or for an unusual architecture.
    """
    tokens = mx.array([_TEST_TOKENS])
    hidden, expected = parts.backbone(tokens, None)[0], model(tokens)[0]
    if hidden.ndim != 2 or hidden.shape == expected.shape or not _agree(parts.logits(hidden), expected, expected):
        return None
    states = mx.concatenate([hidden, hidden * _TEST_SCALE])
    expected = parts.logits(states)
    targets = mx.concatenate([tokens[0], tokens[0]])
    scale, cap = _logit_scaling(parts.outer)
    for head in parts.head_modules:
        if not isinstance(head, _LINEAR) or tree_flatten(head.trainable_parameters()):
            continue
        matrix = _HeadMatrix(head)
        if matrix.shape != (expected.shape[-1], hidden.shape[-1]):
            continue
        logits, logp = matrix.logits(scale, cap), fused_logp(head, scale=scale, cap=cap)
        if _agree(logits(states), expected, expected) and _agree(logp(states, targets), plain_logp(expected, targets), expected):
            return BackboneHead(parts.backbone, logits, logp, fused_logp_no_grad(head, scale=scale, cap=cap))
    trained = any(tree_flatten(module.trainable_parameters()) for module in parts.head_modules)
    logp = chunked_logp(parts.logits, parts.head_modules)
    return BackboneHead(parts.backbone, parts.logits, logp, logp, has_unusual_head=not trained)


def _logit_scaling(outer: nn.Module) -> tuple[float, float]:
    """Return the scale and the cap (or 0) of the logits, from the architecture's settings."""
    args = getattr(outer, "args", None) or outer
    scale = (getattr(args, "logit_scale", None) or 1.0) / (getattr(args, "logits_scaling", None) or 1.0)
    return scale, getattr(args, "final_logit_softcapping", None) or 0.0


def _agree(actual: mx.array, expected: mx.array, logits: mx.array) -> bool:
    """Return whether two results differ by no more than rounding in the dtype of ``logits``, relative to their magnitude."""
    tolerance = max(1e-4, 3 * mx.finfo(logits.dtype).eps) * magnitude(logits)
    error = mx.abs(actual.astype(mx.float32) - expected.astype(mx.float32)).max()
    return bool((error <= tolerance).item())


def plain_logp(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the log-probability ``(positions,)`` of ``targets`` under ``logits`` ``(positions, vocabulary)``, in float32."""
    logits = logits.astype(mx.float32)
    return mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)


def fused_logp(head: nn.Module, chunk: int = CHUNK, *, scale: float = 1.0, cap: float = 0.0) -> LogProbabilities:
    """Return a differentiable ``logp(hidden (positions, width), targets (positions,)) -> (positions,)`` for a frozen linear head.

    Logits are multiplied by ``scale``, then capped at ``cap`` unless it is 0. The head's own arrays get no gradient.
    """
    matrix = _HeadMatrix(head)

    @mx.custom_function
    def logps_and_gradients(hidden: mx.array, targets: mx.array, *weights: mx.array) -> tuple[mx.array, mx.array]:
        logps: list[mx.array] = []
        gradients: list[mx.array] = []
        previous: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part, part_targets = _chunk_after(hidden, start, chunk, previous), targets[start : start + chunk]
            logits = _scale_and_cap(matrix.product(part, *weights).astype(mx.float32), scale, cap)
            target_logits, powers, total, logp = _softmax_parts(logits, part_targets)
            if part.dtype == mx.float32:
                target_rows = matrix.rows(part_targets, *weights)
                if cap:
                    powers = powers * (1 - mx.square(logits / cap))
                    target_rows = target_rows * (1 - mx.square(target_logits / cap))
                gradient = (target_rows - matrix.product_transposed(powers, *weights) / total) * scale
            else:
                others = mx.put_along_axis(powers, part_targets[:, None], mx.array(0.0), axis=-1)
                rest = mx.maximum(others.sum(axis=-1, keepdims=True), mx.finfo(mx.float32).smallest_normal)
                difference = mx.put_along_axis(others / -rest, part_targets[:, None], mx.array(1.0), axis=-1)
                if cap:
                    difference = difference * (1 - mx.square(logits / cap))
                gradient = matrix.product_transposed(difference.astype(part.dtype), *weights) * (scale * rest / total)
            logps.append(logp)
            gradients.append(gradient)
            previous = [logp, gradient]
        return mx.concatenate(logps), mx.concatenate(gradients)

    @logps_and_gradients.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
        hidden, *rest = primals
        return ((cotangents[0][:, None] * outputs[1]).astype(hidden.dtype), *(mx.zeros_like(array) for array in rest))

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        outputs: Any = logps_and_gradients(hidden, targets, *matrix.arrays)
        return outputs[0]

    return logp


def fused_logp_no_grad(head: nn.Module, chunk: int = CHUNK, *, scale: float = 1.0, cap: float = 0.0) -> LogProbabilities:
    """Return :func:`fused_logp` without the gradient, with half as many matrix multiplications."""
    matrix = _HeadMatrix(head)

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        logps: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part = _chunk_after(hidden, start, chunk, logps[-1:])
            logits = _scale_and_cap(matrix.product(part, *matrix.arrays).astype(mx.float32), scale, cap)
            logps.append(_softmax_parts(logits, targets[start : start + chunk])[-1])
        return mx.concatenate(logps)

    return logp


def _softmax_parts(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return the targets' logits ``(positions, 1)``, exp of all logits, their sum, and the log-probabilities ``(positions,)``."""
    target_logits = mx.take_along_axis(logits, targets[:, None], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    powers = exp_of_negative(top - logits)
    total = powers.sum(axis=-1, keepdims=True)
    return target_logits, powers, total, (target_logits - top - mx.log(total))[:, 0]


def chunked_logp(logits: Logits, heads: Sequence[nn.Module], chunk: int = CHUNK) -> LogProbabilities:
    """Return a differentiable ``logp`` like :func:`fused_logp` for any head; trainable parameters of ``heads`` get gradients too.

    The backward pass recomputes the logits of each chunk. Dropout inside a head is disabled, because it would differ between passes.
    """

    def chunk_logp(targets: mx.array, hidden: mx.array, *parameters: mx.array) -> mx.array:
        with _with_parameters(heads, parameters):
            return plain_logp(logits(hidden), targets)

    @mx.custom_function
    def all_logps(hidden: mx.array, targets: mx.array, *parameters: mx.array) -> mx.array:
        logps: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part = _chunk_after(hidden, start, chunk, logps[-1:])
            logps.append(chunk_logp(targets[start : start + chunk], part, *parameters))
        return mx.concatenate(logps)

    @all_logps.vjp
    def _(primals: Any, cotangent: Any, output: Any) -> Any:
        hidden, targets, *parameters = primals
        gradients: list[mx.array] = []
        sums = [mx.zeros_like(array) for array in parameters]
        for start in range(0, hidden.shape[0], chunk):
            part = _chunk_after(hidden, start, chunk, [*gradients[-1:], *sums])
            recompute = partial(chunk_logp, targets[start : start + chunk])
            _, (gradient, *new) = mx.vjp(recompute, [part, *parameters], [cotangent[start : start + chunk]])
            gradients.append(gradient)
            sums = [total + array for total, array in zip(sums, new, strict=True)]
        return mx.concatenate(gradients), mx.zeros_like(targets), *sums

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        result: Any = all_logps(hidden, targets, *_trainable_arrays(heads))
        return result

    return logp


@contextmanager
def _with_parameters(modules: Sequence[nn.Module], arrays: Sequence[mx.array]) -> Iterator[None]:
    """Set the trainable parameters of ``modules`` to ``arrays`` (in the order of :func:`_trainable_arrays`), without dropout."""
    original, modes = _trainable_arrays(modules), [module.training for module in modules]
    _set_trainable(modules, arrays)
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        _set_trainable(modules, original)
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def _chunk_after(hidden: mx.array, start: int, chunk: int, previous: list[mx.array]) -> mx.array:
    """Return a chunk of ``hidden`` that depends on ``previous``. Otherwise, all logits could be in memory at the same time."""
    part = hidden[start : start + chunk]
    return mx.depends([part], previous)[0] if previous else part


def _trainable_arrays(modules: Sequence[nn.Module]) -> list[mx.array]:
    return [array for module in modules for _, array in tree_flatten(module.trainable_parameters())]


def _set_trainable(modules: Sequence[nn.Module], arrays: Sequence[mx.array]) -> None:
    values = iter(arrays)
    for module in modules:
        module.update(tree_map(lambda _: next(values), module.trainable_parameters()))


def _scale_and_cap(logits: mx.array, scale: float, cap: float) -> mx.array:
    if scale != 1:
        logits = logits * scale
    return mx.tanh(logits / cap) * cap if cap else logits


class _HeadMatrix:
    """The arrays of a linear head (W or its quantized parts, then the bias if any), and multiplication by them."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self.quantization: dict[str, Any] = {}
        self.weight_count = 1
        if isinstance(head, nn.QuantizedLinear | nn.QuantizedEmbedding):
            self.quantization = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}
            self.weight_count = 3 if head.get("biases") is not None else 2

    @property
    def shape(self) -> tuple[int, int]:
        """Vocabulary size and width."""
        rows, columns = self.head.weight.shape
        return rows, columns * 32 // self.quantization["bits"] if self.quantization else columns

    @property
    def arrays(self) -> list[mx.array]:
        """The head's arrays. Not cached, because the module holds different arrays inside ``mx.compile``."""
        names = ("weight", "scales", "biases", "bias")
        return [self.head[name] for name in names if self.head.get(name) is not None]

    def logits(self, scale: float, cap: float) -> Logits:
        return lambda hidden: _scale_and_cap(self.product(hidden, *self.arrays), scale, cap)

    def product(self, x: mx.array, *arrays: mx.array) -> mx.array:
        """Return ``x Wᵀ + b``."""
        weights, bias = arrays[: self.weight_count], arrays[self.weight_count :]
        out = _MX.quantized_matmul(x, *weights, transpose=True, **self.quantization) if self.quantization else x @ weights[0].T
        return out + bias[0] if bias else out

    def product_transposed(self, g: mx.array, *arrays: mx.array) -> mx.array:
        """Return ``g W``."""
        weights = arrays[: self.weight_count]
        return _MX.quantized_matmul(g, *weights, transpose=False, **self.quantization) if self.quantization else g @ weights[0]

    def rows(self, tokens: mx.array, *arrays: mx.array) -> mx.array:
        """Return ``W[tokens]``."""
        parts = [array[tokens] for array in arrays[: self.weight_count]]
        return _dequantize(*parts, **self.quantization) if self.quantization else parts[0]


def magnitude(values: mx.array) -> float:
    """Return the largest absolute value, but at least 1, as the scale for an absolute tolerance."""
    return max(1.0, float(np.abs(np.array(values.astype(mx.float32))).max()))
