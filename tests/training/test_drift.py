"""Distance from the reference against full softmaxes, and the warnings of preference training."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from test_pairs import random_pairs
from test_sft import shaken

from mlxtune.models import lora
from mlxtune.models.head import split
from mlxtune.models.lanes import Lanes
from mlxtune.recipe import AdapterSection
from mlxtune.training import drift
from mlxtune.training.drift import Distance, displaced
from mlxtune.training.pairs import PairCache
from mlxtune.training.reference import bare
from mlxtune.training.stack import Stack


def logps(model, pair) -> np.ndarray:
    """Float64 log-probabilities of every next token at the places where the chosen answer is said."""
    whole = mx.array(np.concatenate([pair.prompt, pair.chosen]))
    logits = np.array(model(whole[None, :-1])[0].astype(mx.float32), np.float64)[len(pair.prompt) - 1 :]
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(("shared", "prefix"), [(False, 0), (True, 0), (True, 20)])
def test_distance_is_the_mean_divergence_of_whole_distributions(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, prefix: int
) -> None:
    monkeypatch.setattr(drift, "CHUNK", 3)
    model, _ = load_model(tiny)
    lora.add(model, AdapterSection(rank=4, alpha=8, dropout=0.3, layers=1), seed=1)
    pairs = random_pairs(3, 5, prefix=prefix)
    stack = Stack(model, split(model), Lanes(2))
    cache = PairCache(stack, pairs, prefix, budget=10_000, folder=tmp_path) if shared else None
    model.eval()
    before = [logps(model, pair) for pair in pairs]
    model.train()
    distance = Distance(stack, pairs, shared=shared, prefix=prefix, cache=cache)
    assert distance() == 0
    for name, array in lora.weights(model).items():
        model.load_weights([(name, array + 0.05)], strict=False)
    model.eval()
    after = [logps(model, pair) for pair in pairs]
    model.train()
    each = np.concatenate([(np.exp(new) * (new - old)).sum(axis=-1) for new, old in zip(after, before, strict=True)])
    assert distance() == pytest.approx(each.mean(), rel=1e-4)
    assert each.mean() > 0.01
    assert model.training


def test_an_adapter_is_measured_against_its_bare_base_at_once(tiny: Path) -> None:
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    stack = Stack(model, split(model))
    with bare(model):
        distance = Distance(stack, random_pairs(3, 3), shared=True)
    assert (distance() or 0) > 0.001


def test_a_head_that_learns_has_no_distance(tiny: Path) -> None:
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, targets=["q_proj", "embed_tokens"]))
    assert Distance(Stack(model, split(model)), random_pairs(3, 2), shared=True)() is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "warned"), [(-4.0, -9.0, True), (-0.5, -9.0, False), (-4.0, 1.0, False), (3.0, -9.0, False)]
)
def test_both_answers_becoming_less_likely_is_said(chosen: float, rejected: float, warned: bool) -> None:
    told = displaced({"drift/chosen": chosen, "drift/rejected": rejected, "lengths/chosen": 40.0})
    assert ("likelihood displacement" in told) == warned
    assert not told or "4.0 nats" in told


def test_losses_without_a_reference_have_no_drift_to_warn_of() -> None:
    assert displaced({"lengths/chosen": 40.0}) == ""
    assert displaced({}) == ""
