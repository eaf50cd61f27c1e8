"""Where in an output a failure stands, to be marked for a reader. What is missing, such as a disclaimer, stands nowhere.

A mark is a help to the eye and no part of a verdict: where it is not found, nothing is marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.scorers.json_find import find
from mlxtune.evaluation.scorers.json_text import Refused, parse
from mlxtune.evaluation.scorers.reference import leaves
from mlxtune.evaluation.scorers.words import THINKS, answered
from mlxtune.recipe import Disclaimer

Span = tuple[int, int]

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\w+|\S')
_SPACE = re.compile(r"[ \t\n\r]*")
_SAME = {"'": "['‘’‚‛′`´]", '"': '["“”„‟″«»]', "-": "[-‐‑‒–—―−]"}
_decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def span(metric: str, answer: Answer, contract: Contract) -> Span | None:
    """Where ``answer`` fails ``metric``: the first character and the one behind the last. ``None`` for an answer that holds.

    The ``contract`` as a metric stands for the first of its own that fails.
    """
    if metric == "contract":
        for asked in contract.metrics:
            if asked.asked and not asked.scorer(answer).holds:
                return span(asked.name, answer, contract)
        return None
    found = _span(metric, answer, contract)
    return found if found and 0 <= found[0] < found[1] else None


def _span(metric: str, answer: Answer, contract: Contract) -> Span | None:
    match metric:
        case "json" | "schema":
            return _syntax(answer) or (_schema(answer.output, contract) if metric == "schema" else None)
        case "forbidden":
            return next(filter(None, (_phrase(answer.output, text) for text in contract.forbid)), None)
        case "disclaimer" | "disclaimer_fuzzy":
            return _disclaimer(answer, contract.disclaimers) if not _holds(metric, answer, contract) else None
        case "fields":
            return _field(answer)
    return None


def _holds(metric: str, answer: Answer, contract: Contract) -> bool:
    return next(one for one in contract.metrics if one.name == metric).scorer(answer).holds


def _syntax(answer: Answer) -> Span | None:
    """What keeps an output from being JSON: what stands around it first, as its class does."""
    text = answer.output
    try:
        parse(text)
        return None
    except Refused as refused:
        fault = refused
    if THINKS.match(text) and text.endswith(answered(text)):
        return 0, len(text) - len(answered(text))
    if fence := _FENCE.search(text):
        return fence.span()
    if fault.kind == "text after it":
        return fault.at, len(text.rstrip())
    whole = find(text)
    if whole and whole[1].strip():
        return 0, len(whole[1].rstrip())
    if not whole and text.strip() and text.strip()[0] not in '{["':
        first = text.strip().split("\n", 1)[0]
        return text.index(first), text.index(first) + len(first)
    token = _TOKEN.search(text, fault.at)
    return token.span() if token else (len(text.rstrip()) - 1, len(text.rstrip()))


def _schema(text: str, contract: Contract) -> Span | None:
    """The value that the schema does not allow; of one that lacks a member its end, of one too many the member's name."""
    if contract.schema is None:
        return None
    try:
        error = contract.schema.first(parse(text))
    except (Refused, ValueError):
        return None
    if error is None:
        return None
    start, end = locate(text, list(error.instance_path)) or (0, 0)
    if error.kind.name == "required":
        return end - 1, end
    extra = getattr(error.kind, "unexpected", None)
    if isinstance(extra, list) and extra and (name := _name(text, start, str(extra[0]))):
        return name
    return start, end


def _field(answer: Answer) -> Span | None:
    """The first field that the reference has otherwise, or has not."""
    found, wanted = find(answer.output), find(answer.reference or "")
    if not found or not wanted:
        return None
    first = len(found[1])
    for (path, value), _ in sorted((leaves(found[0]) - leaves(wanted[0])).items(), key=lambda item: item[0][0]):
        steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
        if value is not None and (place := locate(answer.output[first:], steps)):
            return first + place[0], first + place[1]
    return None


def _disclaimer(answer: Answer, rules: Sequence[Disclaimer]) -> Span | None:
    """Where a disclaimer stands that does not count, or does not belong."""
    for rule in rules:
        for phrase in rule.phrases:
            if phrase.match != "regex" and (found := _phrase(answer.output, phrase.text)):
                return found
    return None


def _phrase(text: str, phrase: str) -> Span | None:
    """``phrase`` in ``text``, case, spaces, quotes and dashes apart."""
    pattern = r"(?:\s|\\n)+".join("".join(_SAME.get(sign, re.escape(sign)) for sign in word) for word in phrase.split())
    found = re.search(pattern, text, re.IGNORECASE) if pattern else None
    return found.span() if found else None


def locate(text: str, steps: Sequence[str | int]) -> Span | None:
    """Where the part of a JSON text stands that ``steps`` (names and numbers) lead to; of two members of one name the last."""
    try:
        at = _skip(text, 0)
        for step in steps:
            inside = _members(text, at)
            at = [start for name, _, start in inside if name == str(step)][-1]
        return at, _decode(text, at)[1]
    except (ValueError, IndexError, RecursionError):
        return None


def _name(text: str, start: int, name: str) -> Span | None:
    """Where the member called ``name`` of the object at ``start`` has its name."""
    return next((place for found, place, _ in _members(text, start) if found == name), None)


def _members(text: str, at: int) -> list[tuple[str, Span, int]]:
    """Name (or number), the name's place, and where the value starts, of each part of the object or array at ``at``."""
    found: list[tuple[str, Span, int]] = []
    kind, at = text[at], _skip(text, at + 1)
    while text[at] not in "]}":
        name, place = str(len(found)), (at, at)
        if kind == "{":
            name, end = _decode(text, at)
            place, at = (at, end), _skip(text, _skip(text, end) + 1)
        found.append((name, place, at))
        _, at = _decode(text, at)
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found


def _skip(text: str, at: int) -> int:
    found: Any = _SPACE.match(text, at)
    return int(found.end())
