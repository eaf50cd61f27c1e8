"""Heads compared with the reference implementation: values and gradients; dense, quantized, tied, scaled, capped and trainable."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from exhaustive import cases
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear
from mlx_lm.utils import load_model

from mlxtune.models.head import chunked_logp, fused_logp, fused_logp_no_grad, plain_logp, split_head

SHAPES = {"plain": (1.0, 0.0), "scaled": (0.25, 0.0), "capped": (1.0, 2.0), "both": (3.0, 1.5)}


def make_head(name: str, dtype: mx.Dtype = mx.float32) -> nn.Module:
    mx.random.seed(0)
    kind, _, bits = name.partition("-")
    module = nn.Embedding(320, 64) if kind == "embedding" else nn.Linear(64, 320, bias=kind == "biased")
    module.set_dtype(dtype)
    return module.to_quantized(32, int(bits[0])) if bits else module


@pytest.fixture(params=["linear", "biased", "embedding", "linear-4bit", "biased-8bit", "embedding-8bit"])
def head(request: pytest.FixtureRequest) -> nn.Module:
    return make_head(request.param)


def logits_of(head: nn.Module, scale: float, cap: float) -> Callable[[mx.array], mx.array]:
    apply = head.as_linear if hasattr(head, "as_linear") else head
    return lambda hidden: mx.tanh(apply(hidden) * scale / cap) * cap if cap else apply(hidden) * scale


def weighted(logp: Any, hidden: mx.array) -> tuple[mx.array, mx.array]:
    """Return a weighted sum of log-probabilities and its gradient."""
    mx.random.seed(1)
    targets, weights = mx.random.randint(0, 320, hidden.shape[:1]), mx.random.normal(hidden.shape[:1])
    return mx.value_and_grad(lambda hidden: (logp(hidden, targets) * weights).sum())(hidden)


@pytest.mark.parametrize(("scale", "cap"), SHAPES.values(), ids=SHAPES)
def test_every_method_equals_the_plain_computation(head: nn.Module, scale: float, cap: float) -> None:
    hidden = mx.random.normal((37, 64))
    logits = logits_of(head, scale, cap)
    expected, expected_gradient = weighted(lambda hidden, targets: plain_logp(logits(hidden), targets), hidden)
    head.freeze()
    options = {"scale": scale, "cap": cap}
    for logp in (fused_logp(head, 8, **options), fused_logp_no_grad(head, 8, **options), chunked_logp(logits, [head], chunk=8)):
        result, gradient = weighted(logp, hidden)
        assert mx.allclose(result, expected, rtol=1e-5, atol=1e-5)
        assert mx.allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_half_precision_is_accurate_to_its_rounding(dtype: mx.Dtype) -> None:
    mx.random.seed(0)
    head, hidden = nn.Linear(64, 320, bias=False), mx.random.normal((37, 64))
    exact, expected_gradient = weighted(fused_logp(head), hidden)
    head.set_dtype(dtype)
    result, gradient = weighted(fused_logp(head, scale=1.0), hidden.astype(dtype))
    eps = mx.finfo(dtype).eps
    assert gradient.dtype == dtype
    assert mx.allclose(result, exact, rtol=eps, atol=eps * 4)
    assert mx.abs(gradient - expected_gradient).max() <= 4 * eps * mx.abs(expected_gradient).max()


@pytest.mark.parametrize("confidence", cases([0.9, 0.989, 0.998, 0.9997], "0.9", "0.9997"))
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["linear", "biased", "embedding", "linear-4bit", "embedding-8bit"])
@pytest.mark.parametrize(("scale", "cap"), [SHAPES["plain"], (0.5, 30.0)], ids=["plain", "both"])
def test_the_gradient_keeps_its_direction_when_the_model_is_confident(
    kind: str, dtype: mx.Dtype, confidence: float, scale: float, cap: float
) -> None:
    """The hidden states are moved along their target's row of the head until its probability is ``confidence``."""
    head, exact = make_head(kind, dtype), make_head(kind, dtype)
    exact.update({name: array.astype(mx.float32) for name, array in exact.parameters().items() if array.dtype == dtype})
    logits, exact_logits = (logits_of(module, scale, cap) for module in (head, exact))
    targets, start = mx.random.randint(0, 320, (24,)), mx.random.normal((24, 64))
    direction = logits_of(exact, 1.0, 0.0)(mx.eye(64)).T[targets]
    low, high = mx.zeros((24, 1)), mx.full((24, 1), 20.0)
    for _ in range(20):
        middle = (low + high) / 2
        below = plain_logp(exact_logits(start + middle * direction), targets)[:, None] < math.log(confidence)
        low, high = mx.where(below, middle, low), mx.where(below, high, middle)
    hidden = (start + high * direction).astype(dtype)

    def gradient(logp: Any, hidden: mx.array) -> mx.array:
        return mx.grad(lambda hidden: logp(hidden, targets).sum())(hidden).astype(mx.float32)

    head.freeze()
    result = gradient(fused_logp(head, 8, scale=scale, cap=cap), hidden)
    plain = gradient(lambda hidden, targets: plain_logp(logits(hidden), targets), hidden)
    expected = gradient(lambda hidden, targets: plain_logp(exact_logits(hidden), targets), hidden.astype(mx.float32))
    error, plain_error = (1 - nn.losses.cosine_similarity_loss(array, expected).min().item() for array in (result, plain))
    assert error <= 2 * plain_error + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", cases(["linear", "linear-4bit", "embedding", "linear-compiled"], "linear", "linear-4bit", "embedding")
)
def test_a_trainable_head_gets_a_gradient(kind: str) -> None:
    mx.random.seed(0)
    base = nn.Embedding(320, 64) if kind == "embedding" else nn.Linear(64, 320, bias=False)
    base = base.to_quantized(32, 4) if kind.endswith("4bit") else base
    base.freeze()
    head = (LoRAEmbedding if kind == "embedding" else LoRALinear).from_base(base, r=4, scale=2.0, dropout=0.5)
    head.lora_b = mx.random.normal(head.lora_b.shape) * 0.1
    head.eval()
    logits = logits_of(head, 1.0, 3.0)
    hidden, targets, weights = mx.random.normal((37, 64)), mx.random.randint(0, 320, (37,)), mx.random.normal((37,))
    chunked = chunked_logp(logits, [head], chunk=8)

    def gradients(logp: Any) -> Any:
        def loss(arrays: Any, hidden: mx.array) -> mx.array:
            head.update(arrays)
            return (logp(hidden, targets) * weights).sum()

        return mx.value_and_grad(loss, argnums=(0, 1))(head.trainable_parameters(), hidden)

    expected = tree_flatten(gradients(lambda hidden, targets: plain_logp(logits(hidden), targets)))
    before = tree_flatten(head.parameters())
    head.train()
    run = partial(gradients, chunked)
    if kind.endswith("compiled"):
        run = mx.compile(run, inputs=[head.state], outputs=[head.state])
    result = dict(tree_flatten(run()))
    assert any("lora_a" in name for name in result)
    for name, array in expected:
        assert mx.allclose(result[name], array, rtol=1e-4, atol=1e-5), name
    after = dict(tree_flatten(head.parameters()))
    assert head.dropout.training
    assert all(mx.array_equal(after[name], array) for name, array in before)


class Odd(nn.Module):
    """A Llama whose head applies ``more`` to its logits, which its settings do not mention."""

    def __init__(self, inner: nn.Module, more: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self.model, self.more = inner.model, more
        self.freeze()

    def __call__(self, tokens: mx.array, cache: object = None) -> mx.array:
        return self.more(self.model.embed_tokens.as_linear(self.model(tokens, cache)))


class Closed(nn.Module):
    """A Llama in a list, where its parts are not looked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.parts = [inner]
        self.freeze()

    def __call__(self, tokens: mx.array, cache: object = None) -> mx.array:
        return self.parts[0](tokens, cache)


ODD = {
    "cap": lambda logits: mx.tanh(logits / 30) * 30,
    "scale": lambda logits: logits * 1.01,
    "shift": lambda logits: logits + mx.arange(320) * 1e-3,
}


@pytest.mark.parametrize(
    ("more", "dtype"), [("cap", mx.float32), ("scale", mx.float32), ("shift", mx.float32), ("cap", mx.bfloat16)], ids=str
)
def test_an_unusual_head_runs_in_chunks(tiny: Path, more: str, dtype: mx.Dtype) -> None:
    inner, _ = load_model(tiny)
    inner.set_dtype(dtype)
    model = Odd(inner, ODD[more])
    parts = split_head(model)
    assert parts.is_split
    assert parts.has_unusual_head
    assert "chunked_logp" in parts.logp.__qualname__
    tokens, targets = mx.array([[5, 6, 7, 8]]), mx.array([6, 7, 8, 9])
    assert mx.allclose(parts.logp(parts.backbone(tokens)[0], targets), plain_logp(model(tokens)[0], targets), rtol=1e-5)


def test_a_model_that_cannot_be_split_runs_whole(tiny: Path) -> None:
    model = Closed(load_model(tiny)[0])
    parts = split_head(model)
    assert not parts.is_split
    assert not parts.has_unusual_head
    assert parts.logp is plain_logp
    tokens, targets = mx.array([[5, 6, 7, 8]]), mx.array([6, 7, 8, 9])
    assert mx.array_equal(parts.logits(parts.backbone(tokens)), model(tokens))
    assert mx.allclose(parts.logp(parts.backbone(tokens)[0], targets), plain_logp(model(tokens)[0], targets))
