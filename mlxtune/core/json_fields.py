"""Convert dataclasses to and from JSON.

``field(metadata={"key": …})`` sets a key that differs from the field's name, and ``None`` leaves the field out; ``{"optional": True}``
omits a field that has its default.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, require_version

T = TypeVar("T")


def optional(default: Any) -> Any:
    """Return a field that is left out of the JSON if it has its default; ``default`` may be a function that makes it."""
    how = {"default_factory" if callable(default) else "default": default}
    return field(metadata={"optional": True}, **how)


def to_json(value: Any) -> Any:
    """Return ``value`` with dataclasses as dictionaries and sequences as lists."""
    if is_dataclass(value):
        return {
            key: to_json(getattr(value, name))
            for key, name, default in _keys(cast(Any, type(value)))
            if getattr(value, name) != default
        }
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], record: Any, **others: Any) -> T:
    """Build a ``kind`` from its record, with nested dataclasses as its type hints say. ``others`` are fields that are not read.

    Raises ``KeyError`` for an unknown key, and ``TypeError`` for a missing one or for a value of another type.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"{kind.__name__} is not an object")
    names = {key: name for key, name, _ in _keys(cast(Any, kind))}
    hints = _hints(cast(Any, kind))
    given = {names[key]: value for key, value in record.items()}
    return kind(**{name: _read(hints[name], value) for name, value in given.items() if name not in others}, **others)


def load_record(kind: type[T], file: Path, version: int, hint: str) -> T:
    """Load a ``kind``, whose field ``v`` is its version. Raises ``InputError`` if the file is missing, damaged or of another version."""
    record = read_json(file)
    try:
        require_version(record["v"], version, file, hint)
        return from_json(kind, record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged: {error}.", hint=hint) from error


@lru_cache(maxsize=128)
def _keys(kind: type) -> list[tuple[str, str, object]]:
    """Return the key and the name of each stored field, and the default with which it is omitted."""
    stored = []
    for one in fields(cast(Any, kind)):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        stored.append((one.metadata.get("key", one.name), one.name, default if one.metadata.get("optional") else MISSING))
    return [item for item in stored if item[0] is not None]


@lru_cache(maxsize=128)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(hint: Any, value: Any) -> Any:
    """Return a JSON value as the type ``hint``. Raises ``TypeError`` if it has another type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value)
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        *others, last = (arg for arg in args if arg is not type(None))
        for other in others:
            with suppress(TypeError):
                return _read(other, value)
        return _read(last, value)
    if isinstance(hint, type) and hasattr(hint, "_fields") and isinstance(value, list):  # a named tuple
        return hint(*(_read(kind, item) for kind, item in zip(_hints(hint).values(), value, strict=True)))
    if origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return tuple(_read(kind, item) for kind, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _read(args[1], item) for key, item in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    matches = value in args if origin is Literal else is_number if hint is float else type(value) is hint
    if not matches:
        raise TypeError(f"{value!r:.60} is not {hint}")
    return value
