"""JSON values in a text that is more than JSON, and the parts of a value."""

from __future__ import annotations

import re
from typing import Any

from mlxtune.evaluation.scorers.json_text import BRACKETS, Refused, parse

_TRIES = 100  # brackets in prose that are looked at
_OPENING = re.compile(r"[\[{]")
_LOOKS_LIKE_JSON = re.compile(r"\{\s*(?:[\"{}]|$)|\[\s*(?:[\"\[{\]\d-]|$)")


def find(text: str) -> tuple[Any, str, str] | None:
    """The first balanced object or array in ``text`` that is JSON, with the text before and after it; ``None`` for none.

    A JSON text is its own value. A bracket that never closes ends the search where it looks like the start of JSON: a
    piece of a broken value is not the value.
    """
    try:
        return parse(text), "", ""
    except Refused:
        pass
    at = 0
    for _ in range(_TRIES):
        opening = _OPENING.search(text, at)
        if not opening:
            return None
        end = _balanced(text, opening.start())
        if end:
            try:
                return parse(text[opening.start() : end]), text[: opening.start()], text[end:]
            except Refused:
                at = end
        elif _LOOKS_LIKE_JSON.match(text, opening.start()):
            return None
        else:
            at = opening.end()
    return None


def _balanced(text: str, start: int) -> int:
    """Behind the bracket that closes the one at ``start``; 0 where none does."""
    depth = 0
    for found in BRACKETS.finditer(text, start):
        bracket = found[0]
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if not depth:
            return found.end()
    return 0


def strings(value: Any) -> list[str]:
    """Every string value in a JSON value, in reading order, however deep."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict | list):
            waiting.extend(reversed(list(item.values()) if isinstance(item, dict) else item))
    return found


def at_pointer(value: Any, pointer: str) -> Any:
    """The part of a JSON value that ``pointer`` (RFC 6901) names, or ``None`` where there is none."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(value):
            value = value[int(key[:9])]
        else:
            return None
    return value
