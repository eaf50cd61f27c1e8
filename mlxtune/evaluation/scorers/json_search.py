"""Find JSON values inside other text, and parts of JSON values."""

import re
from typing import Any

from mlxtune.evaluation.scorers.json_parser import BRACKETS, InvalidJSON, parse_json

MISSING = object()  # the value of a field that does not exist
_TRIES = 100  # maximum number of brackets to try
_OPENING = re.compile(r"[\[{]")
_LOOKS_LIKE_JSON = re.compile(r"\{\s*(?:[\"{}]|$)|\[\s*(?:[\"\[{\]\d-]|$)")


def find_json(text: str) -> tuple[Any, str, str] | None:
    """Return the first balanced object or array in ``text`` that is JSON, with the text before and after it, or ``None``.

    If the entire text is JSON, its value is returned. An unclosed bracket that looks like the start of JSON ends the search,
    because part of a broken value does not count.
    """
    try:
        return parse_json(text), "", ""
    except InvalidJSON:
        pass
    index = 0
    for _ in range(_TRIES):
        opening = _OPENING.search(text, index)
        if not opening:
            return None
        end = _balanced(text, opening.start())
        if end:
            try:
                return parse_json(text[opening.start() : end]), text[: opening.start()], text[end:]
            except InvalidJSON:
                index = end
        elif _LOOKS_LIKE_JSON.match(text, opening.start()):
            return None
        else:
            index = opening.end()
    return None


def _balanced(text: str, start: int) -> int:
    """Return the index after the bracket that closes the one at ``start``, or 0 if none does."""
    depth = 0
    for match in BRACKETS.finditer(text, start):
        bracket = match[0]
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if not depth:
            return match.end()
    return 0


def string_values(value: Any) -> list[str]:
    """Return every string in a JSON value, in reading order, at any depth."""
    texts, stack = [], [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict | list):
            stack.extend(reversed(list(item.values()) if isinstance(item, dict) else item))
    return texts


def resolve_pointer(value: Any, pointer: str, missing: Any = None) -> Any:
    """Return the part of a JSON value that ``pointer`` (RFC 6901) refers to, or ``missing``."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(key, missing)
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(value):
            value = value[int(key[:9])]
        else:
            return missing
    return value


def field_value(value: Any, name: str) -> Any:
    """Return the field ``name`` of a JSON value, a key or a JSON Pointer such as ``/order/kind``; ``MISSING`` if it has none."""
    if isinstance(value, dict) and name in value:
        return value[name]
    return resolve_pointer(value, name, MISSING) if name.startswith("/") else MISSING
