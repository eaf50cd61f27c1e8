"""Convert dataclasses to and from JSON.

``field(metadata={"key": …})`` sets a key that differs from the field's name; ``{"optional": True}`` omits a field that is ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return ``value`` with dataclasses as dictionaries and sequences as lists."""
    if is_dataclass(value):
        return {
            field.metadata.get("key", field.name): to_json(item)
            for field in fields(value)
            if (item := getattr(value, field.name)) is not None or not field.metadata.get("optional")
        }
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], record: Mapping[str, Any], **converted: Any) -> T:
    """Build a ``kind`` from its record; ``converted`` replaces values. Raises ``KeyError`` or ``TypeError`` on a mismatch."""
    names = {field.metadata.get("key", field.name): field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**({names[key]: value for key, value in record.items()} | converted))
