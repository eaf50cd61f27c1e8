"""A part of the bundled model that is small enough to compute gradients on a CPU."""

from collections.abc import Iterator

import mlx.nn as nn
import pytest

from mlxtune.models import lora
from mlxtune.models.load import LoadedModel


@pytest.fixture
def lowest_layers(real: LoadedModel) -> Iterator[nn.Module]:
    """The bundled model with its four lowest layers. Adapters that a test adds are removed after it."""
    inner = real.model.model
    layers = inner.layers
    inner.layers = layers[:4]
    yield real.model
    lora.remove(real.model)
    real.model.eval()
    inner.layers = layers
