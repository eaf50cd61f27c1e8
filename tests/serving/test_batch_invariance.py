import random

import mlx.core as mx
import pytest
from tiny_architectures import make

from mlxtune.models.load import LoadedModel, load
from mlxtune.models.prefix_cache import complete_caches
from mlxtune.models.resolve import resolve
from mlxtune.serving import batch_invariance
from mlxtune.serving.batch_invariance import STEP, BatchInvariantScorer, measure_deviation


def test_logits_depend_on_the_tokens_only(tiny_loaded: LoadedModel) -> None:
    model = tiny_loaded.model
    tokens = [random.Random(3).randrange(256) for _ in range(200)]
    growing = BatchInvariantScorer(model)
    for length in (3, 64, 65, 66, 130, 199):
        logits = growing.logits(tokens[:length])
        assert mx.array_equal(logits, BatchInvariantScorer(model).logits(tokens[:length]))
        assert mx.allclose(logits, model(mx.array([tokens[:length]]))[:, -1], atol=1e-4)


def test_a_sliding_window_is_not_recomputed(tmp_path, monkeypatch) -> None:
    model = load(resolve(str(make(tmp_path / "model", "gemma3_text")))).model
    tokens = [5 + index % 90 for index in range(90)]
    growing, computed = BatchInvariantScorer(model), []
    monkeypatch.setattr(growing, "_model", lambda block, cache: computed.append(block.shape[1]) or model(block, cache=cache))
    monkeypatch.setattr(batch_invariance, "complete_caches", lambda _: complete_caches(model))
    for length in (70, 71, 90):
        assert mx.allclose(growing.logits(tokens[:length]), model(mx.array([tokens[:length]]))[:, -1], atol=1e-4)
    assert computed == [STEP, 6, 7, 26]


def test_a_cache_that_cannot_be_trimmed_is_recomputed(tmp_path) -> None:
    model = load(resolve(str(make(tmp_path / "model", "qwen3_5")))).model
    tokens = [5 + index % 90 for index in range(90)]
    growing = BatchInvariantScorer(model)
    for length in (70, 71, 90):
        assert mx.array_equal(growing.logits(tokens[:length]), BatchInvariantScorer(model).logits(tokens[:length]))


def test_the_deviation_is_small_but_never_zero(tiny_loaded: LoadedModel) -> None:
    deviation = measure_deviation(tiny_loaded.model)
    assert deviation
    assert 0 < deviation < 1e-3


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_wrong_batches_count_as_unsupported(tiny_loaded: LoadedModel, monkeypatch, wrong: float) -> None:
    class Off:
        def __init__(self, model) -> None:
            self.model, self.layers = model, model.layers

        def __call__(self, tokens, cache):
            return self.model(tokens, cache=cache) + (wrong * 20 if tokens.shape[0] > 1 else 0)

    monkeypatch.setattr(batch_invariance, "make_prompt_cache", lambda model: tiny_loaded.model.make_cache())
    assert measure_deviation(Off(tiny_loaded.model)) is None
