"""Is the whole output I-JSON (RFC 7493): JSON that every reader takes the same way?"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import strings
from mlxtune.evaluation.scorers.json_text import Refused
from mlxtune.evaluation.scorers.json_valid import json_valid

_HALF = re.compile("[\ud800-\udfff]")
_PLANES = range(0, 0x110000, 0x10000)
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in _PLANES) + "]")


def ijson_valid(answer: Answer) -> Score:
    """Whether the output is JSON with unique names, no lone surrogates or noncharacters, and numbers that a double can hold."""
    raw = json_valid(answer)
    if not raw.holds:
        return raw
    try:
        value = json.loads(answer.output, object_pairs_hook=_unique, parse_float=_finite, parse_int=_finite)
        for text in strings(value):
            _characters(text)
    except Refused as refused:
        return Score(False, refused.kind, str(refused))
    return HOLDS


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused("duplicate name", f"two members are called {one_line(name, 40)}")
        _characters(name)
        found[name] = value
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Refused("number too large", f"a double cannot hold {one_line(digits, 20)}")
    return number


def _characters(text: str) -> None:
    if found := _HALF.search(text):
        raise Refused("lone surrogate", f"a string has half a surrogate pair, U+{ord(found[0]):04X}")
    if found := _NO_CHARACTER.search(text):
        raise Refused("noncharacter", f"a string has U+{ord(found[0]):04X}, which is no character")
