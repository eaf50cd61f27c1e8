"""Four forms of JSON in an output: valid JSON, I-JSON, JSON in a fence, and JSON that a program would find in the text."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json
from mlxtune.evaluation.scorers.json_search import find_json, string_values
from mlxtune.evaluation.scorers.output_text import THINKING

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLANES = range(0, 0x110000, 0x10000)
_NONCHARACTER = re.compile("[\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in _PLANES) + "]")
_OPENS = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_CLOSES = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")


def score_json(answer: ModelAnswer) -> Score:
    """Score whether the whole output is one JSON text (RFC 8259). Fences, surrounding prose, NaN and trailing commas fail.

    The class of failure reports text around the JSON before faults inside it, and the token limit before unclosed brackets. A failure
    is final unless the output is the beginning of a JSON text.
    """
    try:
        parse_json(answer.output)
    except InvalidJSON as error:
        return Score(False, *_failure(answer, error), is_final=not error.at_end)
    return PASS


def _failure(answer: ModelAnswer, error: InvalidJSON) -> tuple[str, str]:
    text = answer.output.strip()
    if error.kind in ("too_deep", "not_utf8", "byte_order_mark"):
        return error.kind, str(error)
    if not text:
        return "empty", "the output is empty"
    if THINKING.match(text):
        return "thinking", "the output starts with reasoning"
    if _FENCE.search(text):
        return "fence", "the JSON is inside a code fence"
    if error.at_end and answer.interruption:
        return answer.interruption, f"{in_words(answer.interruption)}: {error}"
    if error.kind in ("bad_word", "bad_number", "syntax", "text_after_it") and text[0] not in '{["':
        return "prose", f"the output starts with text: {one_line(text, 40)}"
    return error.kind, str(error)


def score_ijson(answer: ModelAnswer) -> Score:
    """Score whether the output is I-JSON (RFC 7493): JSON with unique names, no lone surrogates or noncharacters, and numbers that fit a double."""
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


def score_fenced(answer: ModelAnswer) -> Score:
    """Score whether the output is one fence (CommonMark 0.31, section 4.5) around a JSON text. Raw JSON fails."""
    first, *rest = answer.output.strip().split("\n")
    opening = _OPENS.fullmatch(first.rstrip("\r"))
    if not opening:
        kind = "text_before_the_fence" if any(map(_OPENS.fullmatch, rest)) else "no_fence"
        return Score(False, kind, "the output does not start with a code fence")
    fence = opening[1]
    ends = [index for index, line in enumerate(rest) if (end := _CLOSES.fullmatch(line.rstrip("\r"))) and end[1].startswith(fence)]
    if not ends:
        return Score(False, "open_fence", "the code fence is not closed")
    if ends[0] + 1 < len(rest):
        return Score(False, "more_than_a_fence", "text follows the code fence")
    try:
        parse_json("\n".join(rest[: ends[0]]))
    except InvalidJSON as error:
        return Score(False, error.kind, str(error))
    return PASS


def score_extracted(answer: ModelAnswer) -> Score:
    """Score whether the first balanced value in the output is JSON, whatever surrounds it. No repair could achieve more."""
    return PASS if find_json(answer.output) else Score(False, "no_json_in_it", "no balanced object or array is JSON")


VALID = Scorer("json", "valid JSON", lambda contract: score_json if contract.wants_json else None)
IJSON = Scorer("ijson", "valid I-JSON", lambda contract: score_ijson if contract.wants_json else None, required=False, is_form=True)
FENCED = Scorer(
    "fenced", "JSON in a fence", lambda contract: score_fenced if contract.wants_json else None, required=False, is_form=True
)
EXTRACTED = Scorer(
    "extracted",
    "contains JSON",
    lambda contract: score_extracted if contract.wants_json else None,
    required=False,
    is_form=True,
)
