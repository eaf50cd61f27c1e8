"""Fixtures for tests that train the tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlxtune.models import blas, lanes


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products on one core: threads gain nothing there and wait for each other."""
    blas.threads(1)
    yield
    blas.threads(lanes.cores())
