"""Locate the part of an output that fails a metric, for highlighting.

Highlights are a reading aid and never affect a verdict. A missing part, such as a disclaimer, has no location.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import CONTRACT, PASS, ModelAnswer
from mlxtune.evaluation.scorers.correct import leaves
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, find_json, parse_json
from mlxtune.evaluation.scorers.number import find_number
from mlxtune.evaluation.scorers.output_text import THINKING, strip_thinking

Span = tuple[int, int]

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\w+|\S')
_SPACE = re.compile(r"[ \t\n\r]*")
_VARIANTS = {"'": "['‘’‚‛′`´]", '"': '["“”„‟″«»]', "-": "[-‐‑‒–—―−]"}
_decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def failure_span(metric: str, answer: ModelAnswer, contract: Contract) -> Span | None:
    """Return the span of ``answer`` that fails ``metric``, or ``None`` if the answer passes or the span cannot be located.

    For ``contract``, the first failing required metric is used.
    """
    metrics = {item.name: item for item in contract.metrics}
    if metric == CONTRACT:
        metric = next((item.name for item in metrics.values() if item.required and not (item.score(answer) or PASS).passed), "")
    span: Span | None = None
    match metric:
        case "json" | "schema":
            span = _syntax(answer) or (_schema(answer.output, contract) if metric == "schema" else None)
        case "forbidden":
            span = _phrase(answer.output, contract.section.forbid)
        case "disclaimer" | "disclaimer_fuzzy" if not metrics[metric].scorer(answer).passed:
            phrases = (phrase for rule in contract.section.disclaimers for phrase in rule.phrases)
            span = _phrase(answer.output, [phrase.text for phrase in phrases if phrase.match != "regex"])
        case "correct" if not (score := metrics[metric].score(answer) or PASS).passed:
            number = find_number(answer.output) if "number" in contract.section.correct else None
            span = number.span if number else _field(answer, score.kinds)
    return span if span and 0 <= span[0] < span[1] else None


def _syntax(answer: ModelAnswer) -> Span | None:
    """Return the part that prevents an output from being valid JSON. As in the class of failure, surrounding text takes
    precedence."""
    text = answer.output
    try:
        parse_json(text)
        return None
    except InvalidJSON as error:
        fault = error
    if THINKING.match(text) and text.endswith(strip_thinking(text)):
        return 0, len(text) - len(strip_thinking(text))
    if fence := _FENCE.search(text):
        return fence.span()
    if fault.kind == "text_after_it":
        return fault.index, len(text.rstrip())
    match = find_json(text)
    if match and match[1].strip():
        return 0, len(match[1].rstrip())
    if not match and text.strip() and text.strip()[0] not in '{["':
        first = text.strip().split("\n", 1)[0]
        return text.index(first), text.index(first) + len(first)
    token = _TOKEN.search(text, fault.index)
    return token.span() if token else (len(text.rstrip()) - 1, len(text.rstrip()))


def _schema(text: str, contract: Contract) -> Span | None:
    """Return the value that violates the schema: its end if it lacks a member, or the name of an unexpected member."""
    error = None
    with suppress(InvalidJSON, ValueError):
        error = contract.schema.first_error(parse_json(text)) if contract.schema else None
    if error is None:
        return None
    start, end = locate_value(text, list(error.instance_path)) or (0, 0)
    if error.kind.name == "required":
        return end - 1, end
    extra = getattr(error.kind, "unexpected", None)
    names = [span for name, span, _ in _members(text, start) if name == str(extra[0])] if isinstance(extra, list) and extra else []
    return names[0] if names else (start, end)


def _field(answer: ModelAnswer, kinds: Sequence[str]) -> Span | None:
    """Return the first field that is not in the reference or has a different value there, of those in ``kinds`` if it has any."""
    actual, expected = find_json(answer.output), find_json(answer.reference or "")
    if not actual or not expected:
        return None
    offset = len(actual[1])
    wrong = sorted(path for path, _ in leaves(actual[0]) - leaves(expected[0]))
    for path in [path for path in wrong if path in kinds] if any(kind.startswith("/") for kind in kinds) else wrong:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
        if span := locate_value(answer.output[offset:], steps):
            return offset + span[0], offset + span[1]
    return None


def _phrase(text: str, phrases: Sequence[str]) -> Span | None:
    """Find the first of ``phrases`` that is in ``text``, ignoring case, spacing, and the style of quotes and dashes."""
    for phrase in phrases:
        pattern = r"(?:\s|\\n)+".join("".join(_VARIANTS.get(char, re.escape(char)) for char in word) for word in phrase.split())
        if pattern and (match := re.search(pattern, text, re.IGNORECASE)):
            return match.span()
    return None


def locate_value(text: str, steps: Sequence[str | int]) -> Span | None:
    """Return the span of the value that ``steps`` (names and indices) lead to; the last one if a name is duplicated."""
    with suppress(ValueError, IndexError, RecursionError):
        index = _skip_space(text, 0)
        for step in steps:
            index = [start for name, _, start in _members(text, index) if name == str(step)][-1]
        return index, _decode(text, index)[1]
    return None


def _members(text: str, index: int) -> list[tuple[str, Span, int]]:
    """Return each member of the object or array at ``index``: its name (or index), the name's span, and the value's start."""
    members: list[tuple[str, Span, int]] = []
    kind, index = text[index], _skip_space(text, index + 1)
    while text[index] not in "]}":
        name, span = str(len(members)), (index, index)
        if kind == "{":
            name, end = _decode(text, index)
            span, index = (index, end), _skip_space(text, _skip_space(text, end) + 1)
        members.append((name, span, index))
        _, index = _decode(text, index)
        index = _skip_space(text, index)
        index = _skip_space(text, index + 1) if text[index] == "," else index
    return members


def _skip_space(text: str, index: int) -> int:
    match: Any = _SPACE.match(text, index)
    return int(match.end())
