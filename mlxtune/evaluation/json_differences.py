"""Find the differences between two JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from mlxtune.core.text import one_line

TOLERANCE = 1e-12  # for floats, whose last digit may differ between machines


def differences(location: str, stored: Any, current: Any) -> Iterator[str]:
    """Yield each difference between two JSON values, ignoring float differences up to :data:`TOLERANCE`."""
    match stored, current:
        case dict(), dict():
            for key in dict.fromkeys([*stored, *current]):
                if key in stored and key in current:
                    yield from differences(f"{location}, {key}", stored[key], current[key])
                else:
                    yield f"{location}, {one_line(str(key), 40)} is only {'recomputed' if key in current else 'stored'}."
        case list(), list() if len(stored) == len(current):
            for index, (one, two) in enumerate(zip(stored, current, strict=True)):
                yield from differences(f"{location} {_name(two, index)}", one, two)
        case (bool(), _) | (_, bool()) if stored is current:
            pass
        case int() | float(), int() | float() if not (isinstance(stored, bool) or isinstance(current, bool)):
            if not _is_close(stored, current):
                yield f"{location} is stored as {stored} but recomputed as {current}."
        case _:
            if stored != current:
                yield f"{location} is stored as {_short(stored)} but recomputed as {_short(current)}."


def _is_close(one: float, two: float) -> bool:
    try:
        return math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer that no float can hold
        return one == two


def _name(value: Any, index: int) -> str:
    """Return the values that identify a list item, or its number."""
    names = [str(value[key]) for key in ("first", "second", "arm", "metric") if isinstance(value, dict) and key in value]
    return " ".join(names) or f"{index + 1}"


def _short(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False), 80)
