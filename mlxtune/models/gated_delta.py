"""The gated delta rule in chunks, with a backward pass that stores neither the states nor the chunks' intermediate results.

Qwen3.5, Qwen3-Next, Kimi Linear and others have layers with a recurrent state S ``(values, keys)`` per head:

    S ← S·diag(g)        δ = β (v − S k)        S ← S + δ kᵀ        y = S q

mlx-lm runs one step per token in training, and MLX keeps every state, megabytes per token and layer. Within a chunk, the δ solve a
triangular system, so a chunk is a few matrix multiplications (Yang et al. 2024, arXiv:2412.06464; Kimi Team 2025, arXiv:2510.26692).
With D(i, j) = g(j+1) ⋯ g(i), and D(i) the same from the start of the chunk:

    (I + A) δ = β (v − S (D(i) k))                 A(i, j) = β(i) k(i)ᵀ D(i, j) k(j) for j < i
    y(i) = S (D(i) q(i)) + Σ_{j ≤ i} δ(j) k(j)ᵀ D(i, j) q(i)

The backward pass recomputes the states between segments of a few chunks, then one segment at a time. Each segment waits for the one
before it. Otherwise, MLX, which schedules ahead, would keep the intermediate results of all segments.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
from mlx_lm.models import gated_delta

SCALAR_CHUNK = 64  # tokens, if all keys of a head share a gate
VECTOR_CHUNK = 16  # tokens, if each key has its own: D(i, j) then has a number per key
SEGMENT = 8  # chunks that are recomputed at the same time

_MLX_LM_RULE: Any = gated_delta.gated_delta_ops
_SMALLEST: float = mx.finfo(mx.float32).smallest_normal


def install() -> None:
    """Make every architecture of mlx-lm use :func:`gated_delta_rule` where it has no kernel. Safe to call again."""
    gated_delta.gated_delta_ops = gated_delta_rule


def gated_delta_rule(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array | None = None, mask: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """Return the outputs ``(rows, tokens, value heads, values)`` and the final state ``(rows, value heads, values, keys)``, float32.

    ``q`` and ``k`` are ``(rows, tokens, key heads, keys)``, ``v`` is ``(rows, tokens, value heads, values)``, ``beta`` is
    ``(rows, tokens, value heads)``, and ``g`` is the same or has a gate per key. ``mask`` ``(rows, tokens)`` is False for tokens that
    leave the state unchanged; their outputs are undefined. Replaces mlx-lm's ``gated_delta_ops``.
    """
    rows, tokens, _, keys = q.shape
    if tokens == 1:
        result: tuple[mx.array, mx.array] = _MLX_LM_RULE(q, k, v, g, beta, state, mask)
        return result
    if state is None:
        state = mx.zeros((rows, *v.shape[2:], keys), mx.float32)
    if mask is not None:
        g = mx.where(mx.expand_dims(mask, tuple(range(2, g.ndim))), g, 1)
        beta = mx.where(mask[..., None], beta, 0)
    chunk = min(SCALAR_CHUNK if g.ndim == 3 else VECTOR_CHUNK, tokens)
    padding = -tokens % chunk
    arrays = [_pad(array, padding) for array in (q, k, v)] + [_pad(g, padding, 1), _pad(beta, padding)]
    y, state = _rule(chunk)(*arrays, state.astype(mx.float32))
    return y[:, :tokens], state


def _pad(array: mx.array, count: int, value: float = 0) -> mx.array:
    """Append ``count`` tokens. They leave the state unchanged if their gate is 1 and everything else is 0."""
    return mx.pad(array, [(0, 0), (0, count), *[(0, 0)] * (array.ndim - 2)], constant_values=value) if count else array


@cache
def _rule(chunk: int) -> Any:
    """Return the differentiable rule for tokens in whole chunks of ``chunk``."""
    size = SEGMENT * chunk

    @mx.custom_function
    def rule(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        *tokens, state = arrays
        outputs: list[mx.array] = []
        for start in range(0, tokens[0].shape[1], size):
            segment = mx.depends([array[:, start : start + size] for array in tokens], [state, *outputs[-1:]])
            y, state = _segment(chunk, [*segment, state])
            outputs.append(y)
        return mx.concatenate(outputs, axis=1), state

    @rule.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
        *tokens, state = primals
        output_gradient, state_gradient = cotangents
        segments = [[array[:, start : start + size] for array in tokens] for start in range(0, tokens[0].shape[1], size)]
        states = [state]
        for segment in segments[:-1]:
            states.append(_segment(chunk, [*mx.depends(segment, [states[-1], output_gradient]), states[-1]])[1])
        gradients: list[list[mx.array]] = []
        for index in reversed(range(len(segments))):
            inputs = mx.depends([*segments[index], states[index]], [state_gradient, *(gradients[-1] if gradients else [])])
            cotangent = [output_gradient[:, index * size : (index + 1) * size], state_gradient]
            _, (*own, state_gradient) = mx.vjp(lambda *arrays: list(_segment(chunk, arrays)), inputs, cotangent)
            gradients.append(own)
        return [*(mx.concatenate(list(reversed(parts)), axis=1) for parts in zip(*gradients, strict=True)), state_gradient]

    return rule


def _segment(chunk: int, arrays: Sequence[mx.array]) -> tuple[mx.array, mx.array]:
    """Compute whole chunks of q, k, v, g, beta and the state in float32: all but the states at the same time."""
    q, k, v, g, beta, state = arrays
    heads, dtype = v.shape[2], q.dtype

    def split(array: mx.array) -> mx.array:
        """Return ``(rows, tokens, heads, …)`` as ``(rows, value heads, chunks, tokens, …)``."""
        array = mx.repeat(array, heads // array.shape[2], axis=2) if array.shape[2] < heads else array
        return mx.moveaxis(mx.unflatten(array.astype(mx.float32), 1, (-1, chunk)), 3, 1)

    q, k, v, g, beta = (split(array) for array in (q, k, v, g, beta))
    beta = beta[..., None]
    log_g = mx.log(mx.maximum(g, _SMALLEST))
    vector = g.ndim == 5
    log_g = log_g if vector else log_g[..., None]
    from_start = mx.exp(mx.cumsum(log_g, axis=-2))  # D(i): (…, tokens, keys or 1)
    between = _decay_between(log_g)  # D(i, j): (…, tokens, tokens, keys or 1)
    if vector:
        decayed = between * k[..., None, :, :]
        products = [(decayed * array[..., None, :]).sum(axis=-1) for array in (k, q)]
        to_end = decayed[..., -1, :, :]
    else:
        products = [(array @ k.swapaxes(-1, -2)) * between[..., 0] for array in (k, q)]
        to_end = between[..., -1, :, :] * k
    solution: Any = _unit_lower_inverse(mx.tril(beta * products[0], -1))
    own_deltas, state_deltas = solution @ (beta * v), solution @ (beta * from_start * k)
    queries = from_start * q
    outputs = []
    for index in range(q.shape[2]):
        transposed = state.swapaxes(-1, -2)
        delta = own_deltas[:, :, index] - state_deltas[:, :, index] @ transposed
        outputs.append(queries[:, :, index] @ transposed + products[1][:, :, index] @ delta)
        state = state * from_start[:, :, index, -1:] + delta.swapaxes(-1, -2) @ to_end[:, :, index]
    y = mx.flatten(mx.moveaxis(mx.stack(outputs, axis=2), 1, 3), 1, 2)
    return y.astype(dtype), state


def _decay_between(log_g: mx.array) -> mx.array:
    """Return D(i, j) ``(…, tokens, tokens, keys)``, 0 for j > i, from the logarithms ``(…, tokens, keys)`` of the gates.

    Each product is the exponential of its own sum. Differences of one cumulative sum would lose precision.
    """
    tokens = log_g.shape[-2]
    later = mx.arange(tokens)[:, None] > mx.arange(tokens)
    sums = mx.cumsum(mx.where(later[..., None], log_g[..., None, :], 0), axis=-3)
    return mx.where((later | mx.eye(tokens, dtype=mx.bool_))[..., None], mx.exp(sums), 0)


@mx.custom_function
def _unit_lower_inverse(lower: mx.array) -> mx.array:
    """Return ``(I + lower)⁻¹`` for strictly lower triangular matrices, by inverting blocks of 1, 2, 4, … rows.

    A power series would be simpler, but if keys repeat, its terms become large and cancel.
    """
    size = lower.shape[-1]
    index = mx.arange(size)
    inverse = mx.eye(size)
    block = 1
    while block < size:
        same = index[:, None] // (2 * block) == index // (2 * block)
        below = same & ((index[:, None] // block) % 2 == 1) & ((index // block) % 2 == 0)
        inverse = inverse - inverse @ mx.where(below, lower, 0) @ inverse
        block *= 2
    return inverse


@_unit_lower_inverse.vjp
def _(primals: Any, cotangent: Any, inverse: Any) -> Any:
    transposed = inverse.swapaxes(-1, -2)
    return -transposed @ cotangent @ transposed
