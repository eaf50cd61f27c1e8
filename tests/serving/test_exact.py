"""What a row says alone, and how much a batch moves it."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest
from architectures import make

from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.serving import exact
from mlxtune.serving.exact import Alone, movement


def test_scores_alone_depend_on_the_tokens_and_not_on_what_was_computed_before(tiny_loaded: LoadedModel) -> None:
    model = tiny_loaded.model
    tokens = [random.Random(3).randrange(256) for _ in range(200)]
    growing = Alone(model)
    for length in (3, 64, 65, 66, 130, 199):
        found = growing.scores(tokens[:length])
        assert mx.array_equal(found, Alone(model).scores(tokens[:length]))
        assert mx.allclose(found, model(mx.array([tokens[:length]]))[:, -1], atol=1e-4)


def test_a_cache_that_cannot_go_back_is_computed_anew(tmp_path) -> None:
    model = load(resolve(str(make(tmp_path / "model", "qwen3_5")))).model
    tokens = [5 + at % 90 for at in range(90)]
    growing = Alone(model)
    for length in (70, 71, 90):
        assert mx.array_equal(growing.scores(tokens[:length]), Alone(model).scores(tokens[:length]))


def test_movement_is_rounding_and_never_nothing(tiny_loaded: LoadedModel) -> None:
    found = movement(tiny_loaded.model)
    assert found
    assert 0 < found < 1e-3


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_batches_that_are_plainly_wrong_are_no_batches(tiny_loaded: LoadedModel, monkeypatch, wrong: float) -> None:
    class Off:
        def __init__(self, model) -> None:
            self.model, self.layers = model, model.layers

        def __call__(self, tokens, cache):
            return self.model(tokens, cache=cache) + (wrong * 20 if tokens.shape[0] > 1 else 0)

    monkeypatch.setattr(exact, "make_prompt_cache", lambda model: tiny_loaded.model.make_cache())
    assert movement(Off(tiny_loaded.model)) is None
