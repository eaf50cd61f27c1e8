"""Reference log-probabilities: correct, computed once, and bit-identical after a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from exhaustive import cases
from mlx_lm.utils import load_model
from test_pairs import plain_logp, random_pairs
from test_sft import shaken

from mlxtune.core import journal
from mlxtune.core.errors import Interrupted, MlxtuneError
from mlxtune.models import lora
from mlxtune.models.cpu import exp
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import split_head
from mlxtune.recipe import AdapterSection, MethodSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.optimizer import Stepper
from mlxtune.training.preference import losses, reference
from mlxtune.training.preference.batches import collate
from mlxtune.training.preference.forward import PairCache

pytestmark = pytest.mark.slow

LORA = AdapterSection(rank=4, alpha=8, dropout=0.2)
DORA = AdapterSection(rank=4, alpha=8, kind="dora")
EMBEDDED = AdapterSection(rank=4, alpha=8, targets=["q_proj", "embed_tokens"])


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own cache and small groups, so that there are several."""
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mlxtune.training.preference.batches.GROUP_TOKENS", 150)
    return tmp_path / "home"


def unknown(seed: int = 1, count: int = 9, prefix: int = 0) -> list[EncodedPair]:
    return [replace(pair, reference_logps=None) for pair in random_pairs(seed, count, prefix=prefix)]


def plain(model: nn.Module, pairs: list[EncodedPair]) -> list[list[float]]:
    return [[plain_logp(model, pair.prompt, answer).item() for answer in (pair.chosen, pair.rejected)] for pair in pairs]


def values(pairs: list[EncodedPair]) -> list[list[float]]:
    return [list(pair.reference_logps) for pair in pairs]


def stacked(tiny: Path, section: AdapterSection = LORA, *, moved: bool = False, **more: Any) -> LayerStack:
    model, _ = load_model(tiny)
    exp.install()  # as in a real run; other tests may leave it changed
    (shaken(model, section) if moved else lora.add(model, section, seed=3))
    return LayerStack(model, split_head(model), StreamPool(more.pop("lanes", 1)), **more)


def scored(
    stack: LayerStack, pairs: list[EncodedPair], base: str = "tiny", *, share_prompts: bool = True, **more: Any
) -> list[EncodedPair]:
    return reference.reference_logps(stack, pairs, base, share_prompts=share_prompts, **more)


@pytest.mark.parametrize("section", [LORA, DORA, EMBEDDED], ids=["lora", "dora", "embedding"])
def test_initial_reference_equals_base(tiny, section):
    base, _ = load_model(tiny)
    stack = stacked(tiny, section, lanes=2, checkpointed=True)
    stack.model.train()
    reference_values = scored(stack, unknown())
    np.testing.assert_allclose(values(reference_values), plain(base, unknown()), rtol=1e-5)
    assert stack.checkpointed
    assert stack.model.training


@pytest.mark.parametrize("section", [LORA, DORA, EMBEDDED], ids=["lora", "dora", "embedding"])
def test_parent_adapter_is_reference_or_is_disabled(tiny, section):
    base, _ = load_model(tiny)
    stack = stacked(tiny, section, moved=True, checkpointed=True)
    stack.model.eval()
    parent = plain(stack.model, unknown())
    stack.model.train()  # the reference must still use no dropout
    before = {name: array.tolist() for name, array in lora.adapter_arrays(stack.model).items()}
    assert np.abs(np.array(parent) - np.array(plain(base, unknown()))).max() > 0.05
    np.testing.assert_allclose(values(scored(stack, unknown())), parent, rtol=1e-5)
    with reference.adapters_disabled(stack.model):
        np.testing.assert_allclose(values(scored(stack, unknown())), plain(base, unknown()), rtol=1e-5)
    assert {name: array.tolist() for name, array in lora.adapter_arrays(stack.model).items()} == before
    stack.model.eval()
    assert plain(stack.model, unknown()) == parent


@pytest.mark.parametrize("shared", [True, False])
def test_shared_prefix_reference_matches_plain(tiny, shared):
    base, _ = load_model(tiny)
    rows = unknown(prefix=20)
    reference_values = scored(stacked(tiny, lanes=2), rows, share_prompts=shared)
    np.testing.assert_allclose(values(reference_values), plain(base, rows), rtol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_reference_is_reused_across_ranks(tiny, shared, monkeypatch):
    first = scored(stacked(tiny), unknown(), share_prompts=shared)
    monkeypatch.setattr(reference, "logps", lambda *_: pytest.fail("computed again"))
    wider = stacked(tiny, AdapterSection(rank=8, alpha=2, layers=1))
    again = scored(wider, unknown()[::-1], share_prompts=shared)
    assert values(again) == values(first)[::-1]
    assert all(pair.reference_logps is None for pair in unknown())


def test_only_used_pairs_are_scored(tiny):
    everything = scored(stacked(tiny), unknown(), "all")
    progress: list[tuple[int, int]] = []
    used = scored(stacked(tiny), unknown(), "some", used=[1, 4], progress=lambda *both: progress.append(both))
    assert [index for index, pair in enumerate(used) if pair.reference_logps] == [1, 4]
    np.testing.assert_allclose(
        [used[1].reference_logps, used[4].reference_logps], values([everything[1], everything[4]]), rtol=1e-5
    )
    assert (progress[0], progress[-1]) == ((0, 2), (2, 2))
    more = scored(stacked(tiny), unknown(), "some")
    assert values([more[1], more[4]]) == values([used[1], used[4]])
    np.testing.assert_allclose(values(more), values(everything), rtol=1e-5)


def test_changed_base_parent_or_tokens_recompute_reference(tiny, own_home):
    scored(stacked(tiny), unknown())

    def files() -> int:
        return len(list((own_home / "references").glob("*.jsonl")))

    assert files() == 1
    scored(stacked(tiny), unknown(), "tiny, 4 bits")
    scored(stacked(tiny, moved=True), unknown())
    scored(stacked(tiny, DORA), unknown())
    assert files() == 4
    cut = [replace(pair, chosen=pair.chosen[:-1]) if len(pair.chosen) > 1 else pair for pair in unknown()]
    base, _ = load_model(tiny)
    np.testing.assert_allclose(values(scored(stacked(tiny), cut)), plain(base, cut), rtol=1e-5)
    assert files() == 4


def test_interrupted_pass_resumes_bit_identically(tiny, own_home, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(own_home / "whole"))
    whole = scored(stacked(tiny), unknown())
    monkeypatch.setenv("MLXTUNE_HOME", str(own_home))
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise Interrupted(0)

    with pytest.raises(Interrupted):
        scored(stacked(tiny), unknown(), progress=progress)
    file = reference.cache_file("tiny", stacked(tiny).model)
    assert len(journal.read(file)) == 2
    with file.open("a") as torn:
        torn.write('{"logps":{"half')
    calls[:] = [(0, 0)] * 3
    assert values(scored(stacked(tiny), unknown(), progress=progress)) == values(whole)
    assert calls[-1] == (9, 9)


@pytest.mark.parametrize("prefix", [0, 20])
def test_frozen_layers_run_once_for_reference_and_training(tiny, tmp_path, monkeypatch, prefix):
    stack = stacked(tiny, AdapterSection(rank=4, alpha=8, layers=1), lanes=2)
    pairs = unknown(prefix=prefix)
    cache = PairCache(stack, pairs, prefix, budget=10_000, folder=tmp_path)
    reference_values = scored(stack, pairs, cache=cache)
    base, _ = load_model(tiny)
    np.testing.assert_allclose(values(reference_values), plain(base, pairs), rtol=1e-5)
    monkeypatch.setattr(cache, "_compute", lambda _: pytest.fail("computed again"))
    (batch,) = collate(reference_values, [range(len(reference_values))], share_prompts=True, prefix=prefix, streams=2)
    *beginning, first, second = cache.outputs(batch)
    assert [len(first), len(second)] == [len(part.rows) for part in batch.parts]
    assert [array.shape[1] for array in beginning] == [prefix] * bool(prefix)
    cache.close()


def test_pair_with_non_finite_reference_is_named(tiny):
    stack = stacked(tiny)
    stack.model.model.norm.weight = stack.model.model.norm.weight * mx.nan
    with pytest.raises(MlxtuneError, match="rows, line 0: the reference model's log-probability of this pair is NaN or infinite"):
        scored(stack, unknown())


@pytest.mark.parametrize("loss", cases(["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo"], "sigmoid"))
def test_training_on_pairs_starts_at_zero_and_learns_preferences(tiny, loss):
    """Before the first step policy and reference are equal, so every reward is 0. After training every pair is ranked correctly."""
    by = MethodSection(loss=[loss], beta=0.5, label_smoothing=0.1)
    stack = stacked(tiny, AdapterSection(rank=4, alpha=8))
    pairs = scored(stack, unknown(3, 5))
    (batch,) = collate(pairs, [range(5)], share_prompts=True)
    arrays = batch.arrays()
    stepper = Stepper(stack, optim.Adam(1e-3), losses.PreferenceObjective(by, share_prompts=True), clip=1.0, compiled=False)
    rewards = []
    for _ in range(25):
        (_, sums), gradients = stepper.add(arrays)
        mx.eval(sums, stepper.apply(gradients, len(batch.counts)), stepper.results)
        rewards.append(dict(zip(losses.metric_names(by), sums.tolist(), strict=True)))
    if not by.reference_free:
        assert rewards[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
        assert rewards[0]["drift/chosen"] == pytest.approx(0, abs=1e-3)
    assert rewards[-1]["rewards/accuracies"] == 5
    assert rewards[-1]["rewards/margins"] > max(0.5, rewards[0]["rewards/margins"])
