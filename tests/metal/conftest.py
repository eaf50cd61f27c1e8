"""Tests on the GPU in 16 bits. Elsewhere they are skipped, or run on the CPU in 16 bits if ``MLXTUNE_METAL_TESTS_ON_CPU`` is set."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # loops.py

ON_CPU = bool(os.environ.get("MLXTUNE_METAL_TESTS_ON_CPU"))


@pytest.fixture(autouse=True)
def gpu() -> Iterator[mx.Device]:
    """Make the GPU the default device; the other tests use the CPU."""
    if not mx.metal.is_available() and not ON_CPU:
        pytest.skip("needs a Metal GPU, and this machine has none")
    device = mx.default_device()
    mx.set_default_device(mx.cpu if ON_CPU else mx.gpu)
    yield mx.default_device()
    mx.set_default_device(device)
