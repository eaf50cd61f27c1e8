"""Whether to run every case, as in .ci/run, or a few of them, as in ``make test``."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest

EXHAUSTIVE = bool(os.environ.get("MLXTUNE_EXHAUSTIVE"))


def cases(values: Iterable[Any], *representative: str, name: Callable[[Any], str] = str) -> list[Any]:
    """Return the parameters of a test, identified by ``name``; all but the representative ones are exhaustive."""
    return [
        pytest.param(value, id=name(value), marks=() if name(value) in representative else pytest.mark.exhaustive)
        for value in values
    ]
