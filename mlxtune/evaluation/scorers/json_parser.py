"""JSON in outputs: a strict parser that classifies syntax errors, and how to find JSON in other text, and parts of its values.

RFC 8259 leaves limits to the parser. Here, nesting is limited to 512 levels and exponents to 18 digits. Numbers too large or too
small for a double become decimals.
"""

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import in_words

DEPTH = 512

# A string runs to its end or to the end of the text, so the search never backtracks.
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.+-])")
_CUT_VALUE = re.compile(r"(?:t|tr|tru|f|fa|fal|fals|n|nu|nul|-|-?[0-9]+\.|-?[0-9]+(?:\.[0-9]+)?[eE][+-]?)\Z")
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_WORD = re.compile(r"[-+]?[^\W\d]\w*")
_LITERALS = ("true", "false", "null")
_NON_NUMBERS = ("nan", "infinity", "inf")


class InvalidJSON(ValueError):
    """A text that is not JSON: the ``kind`` of fault, the ``index`` of the first wrong character, and whether it ended early."""

    def __init__(self, kind: str, why: str, index: int = 0, *, at_end: bool = False) -> None:
        super().__init__(why)
        self.kind = kind
        self.index = index
        self.at_end = at_end


def parse_json(text: str) -> Any:
    """Return the value of a text that is entirely JSON. Raises ``InvalidJSON`` and nothing else."""
    if half := _SURROGATE.search(text):
        raise InvalidJSON("not_utf8", f"lone surrogate at {_position(text, half.start())}", half.start())
    if text.count("[") + text.count("{") > DEPTH and any(depth > DEPTH for depth, _ in _depths(text)):
        raise InvalidJSON("too_deep", f"nested more than {DEPTH} levels deep")
    try:
        return json.loads(text, parse_constant=_reject_constant, parse_int=_integer, parse_float=_real)
    except RecursionError:
        raise InvalidJSON("too_deep", "nested too deeply to parse") from None
    except ValueError as error:
        raise find_syntax_error(text) or InvalidJSON("number_too_large", str(error)) from None


def _depths(text: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the number of open brackets outside strings after each bracket or string, and the index after it."""
    depth = 0
    for match in BRACKETS.finditer(text, start):
        depth += 1 if match[0] in "[{" else -1 if match[0] in "]}" else 0
        yield depth, match.end()


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Decimal(digits)  # Python limits the digits of integers


def _real(digits: str) -> float | Decimal:
    number = float(digits)
    if number and not math.isinf(number):
        return number
    try:
        return Decimal(digits) or number
    except InvalidOperation:
        raise ValueError("an exponent has more than 18 digits") from None


def find_syntax_error(text: str) -> InvalidJSON | None:
    """Return the first fault in ``text``, or ``None`` if it is JSON, in a single pass without recursion."""
    index, expected, open_ = 0, "value", ""
    if text.startswith("\ufeff"):
        return InvalidJSON("byte_order_mark", "the text starts with a byte order mark")
    while True:
        index = _SPACE.match(text, index).end()  # type: ignore[union-attr]
        if index == len(text) and expected == "end":
            return None
        if index == len(text):
            kind = "unbalanced" if open_ else "empty"
            return InvalidJSON(kind, "the text ends before the value is complete", index, at_end=True)
        char = text[index]
        if expected == "end":
            kind = "unbalanced" if char in "]}" else "text_after_it"
            return InvalidJSON(kind, f"text after the value at {_position(text, index)}", index)
        if char in "]}":
            if not open_ or (char == "]") != (open_[-1] == "["):
                return InvalidJSON("unbalanced", f"{char} has no opening bracket at {_position(text, index)}", index)
            if expected in ("name", "value"):
                kind = "trailing_comma" if text[:index].rstrip(" \t\n\r")[-1] == "," else "missing_value"
                return InvalidJSON(kind, f"{char} where a value is expected at {_position(text, index)}", index)
            if expected == "colon":
                return InvalidJSON("missing_colon", f"a name without a value at {_position(text, index)}", index)
            open_, index = open_[:-1], index + 1
            expected = "more" if open_ else "end"
        elif expected == "more":
            if char != ",":
                return _unexpected(text, index, "missing_comma" if char in '"[{' or char.isalnum() else "syntax")
            expected, index = "name" if open_[-1] == "{" else "value", index + 1
        elif expected == "colon":
            if char != ":":
                return _unexpected(text, index, "missing_colon")
            expected, index = "value", index + 1
        elif char == '"':
            index = _STRING.match(text, index).end()  # type: ignore[union-attr]
            if index == len(text) or text[index] != '"':
                return _string_fault(text, index)
            index, expected = index + 1, "colon" if expected.startswith("name") else "more" if open_ else "end"
        elif expected.startswith("name"):
            return _unexpected(text, index, "unquoted_name" if char.isalnum() or char in "_$" else "syntax")
        elif char in "[{":
            open_, index = open_ + char, index + 1
            expected = "name or end" if char == "{" else "value or end"
        else:
            number, word = _NUMBER.match(text, index), _WORD.match(text, index)
            if not number and not (word and word[0] in _LITERALS):
                if _CUT_VALUE.match(text, index):
                    return InvalidJSON("unbalanced", "the text ends inside a value", index, at_end=True)
                kind = "bad_number" if char in "+-." or char.isdigit() else "bad_word" if word else "syntax"
                return _unexpected(text, index, kind)
            index, expected = (number or word).end(), "more" if open_ else "end"  # type: ignore[union-attr]


def _unexpected(text: str, index: int, kind: str) -> InvalidJSON:
    """Return the fault for an unexpected character, with a specific class if there is one, else ``kind``."""
    rest, position = text[index : index + 20], _position(text, index)
    word = _WORD.match(text, index)
    if rest[0] in "'`":
        kind = "single_quotes"
    elif rest[0] in "“”‘’„«":
        kind = "curly_quotes"
    elif rest.startswith(("//", "/*", "#")):
        kind = "comment"
    elif word and word[0].lstrip("+-").lower() in _NON_NUMBERS:
        kind = "nan_or_infinity"
    elif rest[0] == ",":
        kind = "extra_comma"
    elif rest[0] < " ":
        kind = "control_character"
    return InvalidJSON(kind, f"{in_words(kind)} at {position}: {one_line(rest, 20)}", index)


def _string_fault(text: str, index: int) -> InvalidJSON:
    if index == len(text) or _CUT_ESCAPE.match(text, index):
        return InvalidJSON("unbalanced", "the text ends inside a string", index, at_end=True)
    kind = "bad_escape" if text[index] == "\\" else "control_character"
    return InvalidJSON(kind, f"{in_words(kind)} at {_position(text, index)}: {one_line(text[index : index + 6])}", index)


def _position(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"line {line}, column {index - text.rfind(chr(10), 0, index)}"


# JSON in other text, and parts of JSON values

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
        if end := next((end for depth, end in _depths(text, opening.start()) if not depth), 0):  # its bracket is closed
            try:
                return parse_json(text[opening.start() : end]), text[: opening.start()], text[end:]
            except InvalidJSON:
                index = end
        elif _LOOKS_LIKE_JSON.match(text, opening.start()):
            return None
        else:
            index = opening.end()
    return None


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
