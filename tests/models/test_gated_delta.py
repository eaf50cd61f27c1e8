"""The chunked gated delta rule against a plain recurrence in float64."""

from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.gated_delta import gated_delta_update

from mlxtune.models import gated_delta
from mlxtune.models.gated_delta import SCALAR_CHUNK, SEGMENT, gated_delta_rule

KEYS, VALUES = 32, 16
LENGTHS = (2, 37, 200)  # within a chunk, and several chunks with padding


def arrays(tokens: int, *, vector: bool, repeated_keys: bool = False) -> list[np.ndarray]:
    """Return random q, k, v, g, beta and a state for two rows, two key heads and four value heads."""
    random = np.random.default_rng(tokens)
    q, k = (random.normal(size=(2, tokens, 2, KEYS)) for _ in range(2))
    if repeated_keys:
        k[:] = k[:, :1]
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    strength = random.uniform(0, 16, size=4)
    gates = np.log1p(np.exp(random.normal(size=(2, tokens, 4, KEYS) if vector else (2, tokens, 4)) - 2))
    g = np.exp(-(strength[:, None] if vector else strength) * gates)
    v, state = random.normal(size=(2, tokens, 4, VALUES)), random.normal(size=(2, 4, VALUES, KEYS))
    return [q, k, v, g, 1 / (1 + np.exp(-2 * random.normal(size=(2, tokens, 4)))), state]


def plain(q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array) -> tuple[mx.array, mx.array]:
    """Return the outputs and the final state, one token at a time."""
    q, k = mx.repeat(q, 2, axis=2), mx.repeat(k, 2, axis=2)
    g = g if g.ndim == 4 else g[..., None]
    outputs = []
    for at in range(q.shape[1]):
        state = state * g[:, at, :, None, :]
        delta = (v[:, at] - (state * k[:, at, :, None, :]).sum(-1)) * beta[:, at, :, None]
        state = state + delta[..., None] * k[:, at, :, None, :]
        outputs.append((state * q[:, at, :, None, :]).sum(-1))
    return mx.stack(outputs, axis=1), state


def results(rule: Any, inputs: list[np.ndarray], dtype: mx.Dtype) -> list[np.ndarray]:
    """Return outputs, final state and all gradients of a weighted sum of both, as float64."""
    random = np.random.default_rng(0)
    with mx.stream(mx.cpu):
        own = [mx.array(array, dtype) for array in inputs]
        weights = [mx.array(random.normal(size=shape), dtype) for shape in (inputs[2].shape, inputs[5].shape)]

        def loss(*values: mx.array) -> tuple[mx.array, list[mx.array]]:
            y, state = rule(*values)
            return (y * weights[0]).sum() + (state * weights[1]).sum(), [y, state]

        (_, outputs), gradients = mx.value_and_grad(loss, argnums=tuple(range(6)))(*own)
        return [np.array(array, np.float64) for array in (*outputs, *gradients)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "vector", "repeated_keys"),
    [
        *itertools.product(LENGTHS, (False, True), (False, True)),
        pytest.param(SEGMENT * SCALAR_CHUNK + 70, False, False, marks=pytest.mark.exhaustive),
    ],
)
def test_outputs_and_gradients_match_the_plain_recurrence(tokens: int, vector: bool, repeated_keys: bool) -> None:
    inputs = arrays(tokens, vector=vector, repeated_keys=repeated_keys)
    for actual, expected in zip(results(gated_delta_rule, inputs, mx.float32), results(plain, inputs, mx.float64), strict=True):
        assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


def test_masked_tokens_leave_the_state_unchanged() -> None:
    own = [mx.array(array, mx.float32) for array in arrays(50, vector=False)]
    mask = mx.array([[True] * 50, [False] * 12 + [True] * 38])
    y, state = gated_delta_rule(*own, mask)
    tail, tail_state = gated_delta_rule(*(array[1:, 12:] for array in own[:5]), own[5][1:])
    assert mx.allclose(y[1, 12:], tail[0], atol=1e-5)
    assert mx.allclose(state[1], tail_state[0], atol=1e-5)


def test_gates_that_underflow_give_no_nan() -> None:
    inputs = arrays(100, vector=False)
    inputs[3][:, ::3] = 0
    assert all(np.isfinite(array).all() for array in results(gated_delta_rule, inputs, mx.float32))


@pytest.mark.slow
@pytest.mark.parametrize("vector", [False, True])
def test_the_backward_pass_does_not_keep_the_recurrence(vector: bool) -> None:
    """More tokens need only the memory of their own inputs, outputs and gradients, not of their states."""
    peaks = []
    for tokens in (512, 2048):
        own = [mx.array(array, mx.float32) for array in arrays(tokens, vector=vector)]
        mx.eval(own)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(lambda *values: gated_delta_rule(*values)[0].sum(), argnums=tuple(range(6)))(*own))
        peaks.append(mx.get_peak_memory() - before)
    states = (2048 - 512) * 2 * 4 * VALUES * KEYS * 4
    assert peaks[1] - peaks[0] < states / 2


def test_mlx_lm_uses_the_rule_in_training() -> None:
    gated_delta.install()
    q, k, v, _, _, state = (mx.array(array, mx.float32) for array in arrays(20, vector=False))
    a, b = mx.random.normal((2, 20, 4)), mx.random.normal((2, 20, 4))
    strength, bias = mx.zeros((4,)), mx.ones((4,))
    y, _ = gated_delta_update(q, k, v, a, b, strength, bias, state, use_kernel=False)
    expected, _ = gated_delta_rule(q, k, v, mx.exp(-mx.logaddexp(a + bias, 0)), mx.sigmoid(b), state)
    assert mx.allclose(y, expected, atol=1e-5)
