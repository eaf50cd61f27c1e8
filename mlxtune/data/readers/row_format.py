"""The common parts of row formats, and helpers that read common fields from a record."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.data.rows import Location, Message, Row

Record = Mapping[str, Any]

PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "problem", "input", "user")  # common names for a prompt column
TARGET_KEYS = ("completion", "output", "text", "chosen", "rejected", "preferred_output", "non_preferred_output")


@dataclass(eq=False)
class InvalidRecord(Exception):
    """The reason why a record cannot be used; the caller, which knows the location, raises a ``RowError``.

    ``kind`` is the ID of a check in ``checks/unreadable.py``, and ``at`` the place of the fault in the record.
    """

    reason: str
    hint: str = "Correct the row, or remove it."
    kind: str = "bad-row"
    at: int | None = None


@dataclass(frozen=True)
class RowFormat:
    """A JSON representation of a row.

    ``keys`` are the keys that it reads, ``matches`` returns whether a record is in this format, and ``read`` converts a record or
    raises ``InvalidRecord``. ``places`` returns where a record has our keys, if they have other names there.
    """

    name: str
    keys: tuple[str, ...]
    matches: Callable[[Record], bool]
    read: Callable[[Record, Location], Row]
    places: Callable[[Record], Mapping[str, str]] = lambda record: {}

    def is_readable(self, record: Record) -> bool:
        try:
            return bool(self.read(record, Location(Path(), 0)))
        except InvalidRecord:
            return False


def answer_value(value: Any) -> Any:
    """Return an answer that is an object, a list of objects or texts, a number or a truth value as JSON text; other values unchanged.

    A list that repeats one text is that text.
    """
    if isinstance(value, list) and len(texts := {one if isinstance(one, str) else None for one in value}) == 1 and texts != {None}:
        return value[0]
    is_list = isinstance(value, list) and any(all(isinstance(one, kind) for one in value) for kind in (dict, str))
    is_json = isinstance(value, dict | int | float) or is_list
    return json.dumps(value, ensure_ascii=False) if is_json and value != [] else value


def text_field(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRecord(f"{key} must be a non-empty string.", kind=empty_kind(key))
    return value


def empty_kind(key: str) -> str:
    return "empty-target" if key in TARGET_KEYS else "bad-row"


def metadata(record: Record, *read_keys: str) -> dict[str, Any]:
    """Return the row's metadata: the object under ``meta``, also as JSON text, and every key that the format does not read."""
    meta: Any = record.get("meta")
    if isinstance(meta, str) and meta.startswith("{"):
        with suppress(ValueError):
            meta = json.loads(meta)
    rest = {key: value for key, value in record.items() if key not in (*read_keys, "meta")}
    return {**rest, **meta} if isinstance(meta, dict) else rest


def with_system(messages: Sequence[Message], record: Record) -> tuple[Message, ...]:
    """Prepend the record's ``system`` prompt, if it has one and ``messages`` have none."""
    system = record.get("system")
    if system is None or (isinstance(system, str) and not system.strip()):
        return tuple(messages)
    if not isinstance(system, str):
        raise InvalidRecord("system must be a string.")
    if messages[0].is_system:
        if messages[0].content.strip() == system.strip():
            return tuple(messages)
        raise InvalidRecord("system differs from the system turn.")
    return (Message("system", system), *messages)
