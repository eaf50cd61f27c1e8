"""JSON texts by the letter: the strict reader that the scorers share, and what a text that it refuses has wrong.

RFC 8259 leaves to the reader how deep a text may nest and how large a number may be. Here 512 deep, and any number:
one too large for a double reads as infinity.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mlxtune.core.text import one_line

DEPTH = 512

# A string runs to its end or to the end of the text, so that no input makes the search go back.
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.+-])")
_CUT_VALUE = re.compile(r"(?:t|tr|tru|f|fa|fal|fals|n|nu|nul|-|-?[0-9]+\.|-?[0-9]+(?:\.[0-9]+)?[eE][+-]?)\Z")
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_WORD = re.compile(r"[-+]?[^\W\d]\w*")
_LITERALS = ("true", "false", "null")
_NO_NUMBERS = ("nan", "infinity", "inf")


class Refused(ValueError):
    """A text that is not JSON; ``kind`` is the class of what is wrong with it, ``at`` the first character that is.

    ``at_end``: it could have gone on to be JSON.
    """

    def __init__(self, kind: str, why: str, at: int = 0, *, at_end: bool = False) -> None:
        super().__init__(why)
        self.kind = kind
        self.at = at
        self.at_end = at_end


def parse(text: str) -> Any:
    """The value of a JSON text, the whole of it. Raises ``Refused``; never anything else."""
    if half := _SURROGATE.search(text):
        raise Refused(
            "not UTF-8", f"it cannot be written as UTF-8: half a surrogate pair, {_place(text, half.start())}", half.start()
        )
    if _deeper(text, DEPTH):
        raise Refused("too deep", f"nested more than {DEPTH} deep")
    try:
        return json.loads(text, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise Refused("too deep", "nested deeper than can be read here") from None
    except ValueError as error:
        raise fault(text) or Refused("syntax", str(error)) from None


def _deeper(text: str, limit: int) -> bool:
    """Whether brackets, those in strings apart, open more than ``limit`` deep."""
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for found in BRACKETS.finditer(text):
        depth += 1 if found[0] in "[{" else -1 if found[0] in "]}" else 0
        if depth > limit:
            return True
    return False


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 4000 else float("inf") * (-1 if digits.startswith("-") else 1)


def fault(text: str) -> Refused | None:
    """The first thing by which ``text`` is not JSON; ``None`` for one that is.

    One pass without recursion. Nothing that follows the first fault is looked at.
    """
    at, due, open_ = 0, "value", ""
    if text.startswith("\ufeff"):
        return Refused("byte order mark", "it begins with a byte order mark")
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            return (
                None
                if due == "end"
                else Refused("unbalanced" if open_ else "empty", "it ends before its value does", at, at_end=True)
            )
        char = text[at]
        if due == "end":
            return Refused("unbalanced" if char in "]}" else "text after it", f"the value has ended before {_place(text, at)}", at)
        if char in "]}":
            if not open_ or (char == "]") != (open_[-1] == "["):
                return Refused("unbalanced", f"{char} closes nothing, {_place(text, at)}", at)
            if due in ("name", "value"):
                kind = "trailing comma" if text[:at].rstrip(" \t\n\r")[-1] == "," else "missing value"
                return Refused(kind, f"{char} where more is due, {_place(text, at)}", at)
            if due == "colon":
                return Refused("missing colon", f"a name without a value, {_place(text, at)}", at)
            open_, at = open_[:-1], at + 1
            due = "more" if open_ else "end"
        elif due == "more":
            if char != ",":
                return _stray(text, at, "missing comma" if char in '"[{' or char.isalnum() else "syntax")
            due, at = "name" if open_[-1] == "{" else "value", at + 1
        elif due == "colon":
            if char != ":":
                return _stray(text, at, "missing colon")
            due, at = "value", at + 1
        elif char == '"':
            at = _STRING.match(text, at).end()  # type: ignore[union-attr]
            if at == len(text) or text[at] != '"':
                return _string_fault(text, at)
            at, due = at + 1, "colon" if due.startswith("name") else "more" if open_ else "end"
        elif due.startswith("name"):
            return _stray(text, at, "unquoted name" if char.isalnum() or char in "_$" else "syntax")
        elif char in "[{":
            open_, at = open_ + char, at + 1
            due = "name or end" if char == "{" else "value or end"
        else:
            number, word = _NUMBER.match(text, at), _WORD.match(text, at)
            if not number and not (word and word[0] in _LITERALS):
                if open_ and _CUT_VALUE.match(text, at):
                    return Refused("unbalanced", "it ends inside a value", at, at_end=True)
                kind = "bad number" if char in "+-." or char.isdigit() else "bad word" if word else "syntax"
                return _stray(text, at, kind)
            at, due = (number or word).end(), "more" if open_ else "end"  # type: ignore[union-attr]


def _stray(text: str, at: int, kind: str) -> Refused:
    """What stands at ``at``, where it may not; ``kind`` when it is nothing that has a name of its own."""
    rest, where = text[at : at + 20], _place(text, at)
    word = _WORD.match(text, at)
    if rest[0] in "'`":
        kind = "single quotes"
    elif rest[0] in "“”‘’„«":
        kind = "curly quotes"
    elif rest.startswith(("//", "/*", "#")):
        kind = "comment"
    elif word and word[0].lstrip("+-").lower() in _NO_NUMBERS:
        kind = "NaN or Infinity"
    elif rest[0] == ",":
        kind = "extra comma"
    elif rest[0] < " ":
        kind = "control character"
    return Refused(kind, f"{kind}, {where}: {one_line(rest, 20)}", at)


def _string_fault(text: str, at: int) -> Refused:
    if at == len(text) or _CUT_ESCAPE.match(text, at):
        return Refused("unbalanced", "it ends inside a string", at, at_end=True)
    kind = "bad escape" if text[at] == "\\" else "control character"
    return Refused(kind, f"{kind}, {_place(text, at)}: {one_line(text[at : at + 6])}", at)


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line}, column {at - text.rfind(chr(10), 0, at)}"
