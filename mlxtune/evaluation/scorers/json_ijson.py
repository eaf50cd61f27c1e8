"""Valid I-JSON (RFC 7493): JSON that every parser reads the same way."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_parser import InvalidJSON
from mlxtune.evaluation.scorers.json_search import string_values
from mlxtune.evaluation.scorers.json_valid import score_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_PLANES = range(0, 0x110000, 0x10000)
_NONCHARACTER = re.compile("[\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in _PLANES) + "]")


def score_ijson(answer: ModelAnswer) -> Score:
    """Score whether the output is JSON with unique names, no lone surrogates or noncharacters, and numbers that fit a double."""
    raw = score_json(answer)
    if not raw.passed:
        return raw
    try:
        value = json.loads(answer.output, object_pairs_hook=_unique, parse_float=_finite, parse_int=_finite)
        for text in string_values(value):
            _require_characters(text)
    except InvalidJSON as error:
        return Score(False, error.kind, str(error))
    return PASS


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise InvalidJSON("duplicate_name", f"two members are named {one_line(name, 40)}")
        _require_characters(name)
        members[name] = value
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise InvalidJSON("number_too_large", f"{one_line(digits, 20)} does not fit a double")
    return number


def _require_characters(text: str) -> None:
    if match := _SURROGATE.search(text):
        raise InvalidJSON("lone_surrogate", f"a string contains a lone surrogate, U+{ord(match[0]):04X}")
    if match := _NONCHARACTER.search(text):
        raise InvalidJSON("noncharacter", f"a string contains the noncharacter U+{ord(match[0]):04X}")


SCORER = Scorer(
    "ijson", "valid I-JSON", lambda contract: score_ijson if contract.wants_json else None, required=False, is_form=True
)
