"""Distance from the reference against full softmax distributions, and drift warnings in preference training."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from test_pairs import random_pairs
from test_sft import shaken

from mlxtune.models import lora
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.head import split_head
from mlxtune.recipe import AdapterSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.preference import reference
from mlxtune.training.preference.forward import PairCache
from mlxtune.training.preference.reference import ReferenceKL, adapters_disabled, displacement


def logps(model, pair) -> np.ndarray:
    """Return float64 next-token log-probabilities at every position of the chosen answer."""
    whole = mx.array(np.concatenate([pair.prompt, pair.chosen]))
    logits = np.array(model(whole[None, :-1])[0].astype(mx.float32), np.float64)[len(pair.prompt) - 1 :]
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(("shared", "prefix"), [(False, 0), (True, 0), (True, 20)])
def test_distance_is_mean_kl_of_full_distributions(tiny, tmp_path, monkeypatch, shared, prefix):
    monkeypatch.setattr(reference, "CHUNK", 3)
    model, _ = load_model(tiny)
    lora.add(model, AdapterSection(rank=4, alpha=8, dropout=0.3, layers=1), seed=1)
    pairs = random_pairs(3, 5, prefix=prefix)
    stack = LayerStack(model, split_head(model), StreamPool(2))
    cache = PairCache(stack, pairs, prefix, budget=10_000, folder=tmp_path) if shared else None
    model.eval()
    before = [logps(model, pair) for pair in pairs]
    model.train()
    calls: list[tuple[int, int]] = []
    distance = ReferenceKL(
        stack, pairs, share_prompts=shared, prefix=prefix, cache=cache, progress=lambda done, total: calls.append((done, total))
    )
    assert (calls[0], calls[-1]) == ((0, 5), (5, 5))
    assert distance() == 0
    for name, array in lora.adapter_arrays(model).items():
        model.load_weights([(name, array + 0.05)], strict=False)
    model.eval()
    after = [logps(model, pair) for pair in pairs]
    model.train()
    each = np.concatenate([(np.exp(new) * (new - old)).sum(axis=-1) for new, old in zip(after, before, strict=True)])
    assert distance() == pytest.approx(each.mean(), rel=1e-4)
    assert each.mean() > 0.01
    assert model.training


def test_adapter_is_measured_against_bare_base(tiny):
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    stack = LayerStack(model, split_head(model))
    with adapters_disabled(model):
        distance = ReferenceKL(stack, random_pairs(3, 3), share_prompts=True)
    assert (distance() or 0) > 0.001


def test_trained_head_has_no_distance(tiny):
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, targets=["q_proj", "embed_tokens"]))
    assert ReferenceKL(LayerStack(model, split_head(model)), random_pairs(3, 2), share_prompts=True)() is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "warned"), [(-4.0, -9.0, True), (-0.5, -9.0, False), (-4.0, 1.0, False), (3.0, -9.0, False)]
)
def test_warns_when_both_answers_become_less_likely(chosen, rejected, warned):
    lost = displacement({"drift/chosen": chosen, "drift/rejected": rejected, "lengths/chosen": 40.0})
    assert lost == ({"chosen": 4.0, "rejected": 9.0} if warned else {})


def test_reference_free_losses_give_no_drift_warning():
    assert displacement({"lengths/chosen": 40.0}) == displacement({}) == {}
