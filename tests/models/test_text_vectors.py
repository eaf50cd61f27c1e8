from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.models import text_vectors as vectors
from mlxtune.models.head import split_head
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve

TEXTS = ["Where is my parcel?", "The tent leaks.", "", "Where is my other parcel, which I paid for last week?", "The tent leaks."]


@pytest.fixture(scope="module")
def loaded(tiny: Path):
    return load(resolve(str(tiny)))


def test_vectors_are_means_over_tokens_after_a_sixth_of_the_layers(loaded, tmp_path: Path) -> None:
    model = loaded.model.model
    layers, norm = list(model.layers), model.norm
    got = vectors.text_vectors(loaded, TEXTS, tmp_path)
    assert model.layers == layers
    for text, vector in zip(TEXTS, got, strict=True):
        hidden = model.embed_tokens(mx.array([loaded.tokenizer.encode(text, add_special_tokens=False) or [0]]))
        for layer in layers[: max(1, round(len(layers) / 6))]:
            hidden = layer(hidden, "causal", None)
        assert vector == pytest.approx(np.array(norm(hidden).mean(axis=1))[0], abs=1e-4)
    assert (got[1] == got[4]).all()


def test_each_text_is_computed_once(loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vectors.text_vectors(loaded, TEXTS[:3], tmp_path)
    computed: list[int] = []
    mean_states = vectors._mean_states
    monkeypatch.setattr(
        vectors, "_mean_states", lambda head, tokens, progress: computed.append(len(tokens)) or mean_states(head, tokens, progress)
    )
    second = vectors.text_vectors(loaded, TEXTS, tmp_path)
    assert computed == [1]
    assert (second[:3] == first).all()
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])  # a damaged cache is computed again
    assert vectors.text_vectors(loaded, TEXTS, tmp_path) == pytest.approx(second, abs=1e-5)


def test_texts_are_cut_shorter_if_there_are_many_tokens(loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vectors.text_vectors(loaded, TEXTS[:2], tmp_path)
    monkeypatch.setattr(vectors, "_MAX_TOKENS", (256, 2, 1))
    monkeypatch.setattr(vectors, "_TOTAL_TOKENS", 4)
    cut = vectors.text_vectors(loaded, TEXTS[:2], tmp_path)
    starts = [loaded.tokenizer.encode(text, add_special_tokens=False)[:2] for text in TEXTS[:2]]
    assert cut == pytest.approx(vectors.text_vectors(loaded, [loaded.tokenizer.decode(one) for one in starts], tmp_path), abs=1e-5)
    assert not np.allclose(whole, cut)
    monkeypatch.setattr(vectors, "_TOTAL_TOKENS", 10_000)
    assert (vectors.text_vectors(loaded, TEXTS[:2], tmp_path) == whole).all()  # still stored


def test_architecture_that_needs_all_layers_runs_them_all(loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_runs", lambda head: False)
    whole = vectors.text_vectors(loaded, TEXTS, tmp_path / "a")
    tokens = [loaded.tokenizer.encode(TEXTS[0], add_special_tokens=False)]
    assert whole[0] == pytest.approx(np.array(loaded.model.model(mx.array(tokens))[0]).mean(axis=0), abs=1e-4)


def test_a_model_with_an_unusual_head_has_the_same_hidden_states(loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Capped(type(loaded.model)):
        def __call__(self, *args, **kwargs):
            return mx.tanh(super().__call__(*args, **kwargs) / 30) * 30

    plain = vectors.text_vectors(loaded, TEXTS, tmp_path / "plain")
    monkeypatch.setattr(loaded.model, "__class__", Capped)
    assert split_head(loaded.model).has_unusual_head
    assert (vectors.text_vectors(loaded, TEXTS, tmp_path / "capped") == plain).all()


def test_standardized_vectors_are_unit_and_centered() -> None:
    values = np.random.default_rng(1).normal(5, [1, 100, 0.1], (50, 3)).astype(np.float32)
    got = vectors.standardized(values)
    assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)
    assert abs(got.mean(axis=0)).max() < 0.2
    assert np.isfinite(vectors.standardized(np.ones((3, 4), np.float32))).all()
