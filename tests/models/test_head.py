"""The one-pass head against the plain computation: values and gradients, dense and quantised, tied and untied."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model

from mlxtune.models.head import one_pass, plain_logp, split


@pytest.fixture(params=["linear", "embedding", "linear-4bit", "embedding-8bit"])
def head(request: pytest.FixtureRequest) -> nn.Module:
    mx.random.seed(0)
    kind, _, bits = request.param.partition("-")
    made = nn.Linear(64, 320, bias=False) if kind == "linear" else nn.Embedding(320, 64)
    return made.to_quantized(32, int(bits[0])) if bits else made


def test_one_pass_gives_the_plain_log_probabilities_and_gradients(head: nn.Module) -> None:
    hidden = mx.random.normal((37, 64))
    targets = mx.random.randint(0, 320, (37,))
    weights = mx.random.normal((37,))
    apply = head.as_linear if hasattr(head, "as_linear") else head
    quick = one_pass(head, chunk=8)

    def by_plain(hidden: mx.array) -> mx.array:
        return (plain_logp(apply(hidden), targets) * weights).sum()

    def by_one_pass(hidden: mx.array) -> mx.array:
        return (quick(hidden, targets) * weights).sum()

    expected, slope = mx.value_and_grad(by_plain)(hidden)
    found, own = mx.value_and_grad(by_one_pass)(hidden)
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert mx.allclose(own, slope, rtol=1e-4, atol=1e-5)


def test_a_usual_model_is_split_and_agrees_with_itself(tiny: Path) -> None:
    model, _ = load_model(tiny)
    parts = split(model)
    assert not parts.warning
    tokens = mx.array([[5, 6, 7, 8]])
    assert mx.allclose(parts.logits(parts.backbone(tokens)), model(tokens), rtol=1e-5, atol=1e-5)


class _Capped(nn.Module):
    """A model whose head does more than a matrix product, as Gemma 2's does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model, self.layers = inner.model, inner.layers

    def __call__(self, tokens: mx.array, cache: object = None) -> mx.array:
        return mx.tanh(self.model.embed_tokens.as_linear(self.model(tokens, cache)) / 0.5) * 0.5


def test_a_head_that_does_more_is_computed_in_full_with_a_warning(tiny: Path) -> None:
    model = _Capped(load_model(tiny)[0])
    parts = split(model)
    assert "in full" in parts.warning
    tokens, targets = mx.array([[5, 6, 7, 8]]), mx.array([6, 7, 8, 9])
    assert mx.allclose(parts.logp(parts.backbone(tokens)[0], targets), plain_logp(model(tokens)[0], targets))
