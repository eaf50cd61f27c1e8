"""The bundled model: its arrays have one 16-bit dtype, and adapters of earlier layouts still fit."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlxtune.models import bundled
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve, same_base

FIRST, *_, LATEST = bundled.FINGERPRINTS


@pytest.mark.parametrize("recorded", ["", LATEST, FIRST])
def test_adapters_of_every_layout_fit(recorded: str) -> None:
    assert same_base(recorded, LATEST)


def test_adapters_of_other_models_do_not_fit() -> None:
    assert not same_base("0" * 64, LATEST)
    assert not same_base(FIRST, "0" * 64)


@pytest.mark.real
def test_native_arithmetic_is_16_bit(real: LoadedModel) -> None:
    assert real.source.fingerprint == LATEST
    model = load(resolve(bundled.ALIAS), "native").model
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.uint32, mx.float16}
    assert model(mx.array([[1, 2, 3]])).dtype == mx.float16
