"""The token limit of answers, derived from the reference answers so that it does not favor any arm, and when a loop is ended earlier.

Under a grammar, an answer may have to be longer, because it ends only where the schema allows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlxtune.data.rows import Row, TextRow
from mlxtune.evaluation.answers import is_loop
from mlxtune.evaluation.scorers.json_parser import BRACKETS, InvalidJSON, find_syntax_error, parse_json, resolve_pointer
from mlxtune.models.thoughts import COPIES, LEAST, MAX_PERIOD, LoopRule
from mlxtune.recipe import AUTO, EvaluationSection

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


FACTOR = 2  # times the longest reference answer, or the longest repetition in one
MINIMUM_EXTRA = 64  # tokens more than the longest reference answer, at least
WITHOUT_REFERENCE = 256  # tokens, if no row has a reference answer
GRAMMAR_FACTOR = 8  # times the limit of other answers, at most, for those under a grammar
LONGER = 4  # times the limit, for answers that were cut off and would decide the outcome

_SCALARS = {"null": 4, "boolean": 5, "integer": 24, "number": 24}  # a number of more characters has more digits than a double
_FORMATS = {"date": 10, "time": 20, "date-time": 35, "uuid": 36, "ipv4": 15, "ipv6": 45}
_DEPTH = 64
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u....|u....|[^u]|u?.{0,3}\Z)")  # the last one may be incomplete


def answer_limits(section: EvaluationSection, longest: int, schema: Any, room: int | None = None) -> tuple[int, int]:
    """Return the limit for a longest reference answer of ``longest`` tokens, if ``room`` tokens are left in the model's context, and
    that under a grammar of ``schema``: enough for its longest answer at a token per character, if it has a length."""
    if section.max_tokens != AUTO:
        return section.max_tokens, section.max_tokens
    limit = max(FACTOR * longest, longest + MINIMUM_EXTRA) if longest else WITHOUT_REFERENCE
    limit = limit if room is None else max(1, min(limit, room))
    needed = min(longest_json(schema) or 0, GRAMMAR_FACTOR * limit)
    return limit, max(limit, needed if room is None else min(needed, room))


@dataclass(frozen=True)
class AnswerBudget:
    """The limit of an answer in tokens, reasoning not counted. The other values are set with ``evaluation.max_tokens = "auto"``."""

    max_tokens: int
    longest_reference: int | None = None  # in tokens
    room: int | None = None  # what the model's context leaves for an answer, if it is less than a limit
    grammar_tokens: int | None = None  # the limit under a grammar, if it is higher


def answer_budget(
    section: EvaluationSection, rows: Iterable[Row], count_tokens: Callable[[str], int], room: int | None = None, schema: Any = None
) -> AnswerBudget:
    """Return the budget for answers like the references of ``rows``, the training and validation rows, that satisfy ``schema``."""
    if section.max_tokens != AUTO:
        return AnswerBudget(section.max_tokens)
    references = {row.reference for row in rows if not isinstance(row, TextRow)}
    longest = max((count_tokens(text) for text in references if text), default=0)
    limit, wide = answer_limits(section, longest, schema, room)
    is_limited = (limit, wide) != answer_limits(section, longest, schema)
    return AnswerBudget(limit, longest, room if is_limited else None, wide if wide > limit else None)


class _Unlimited(Exception):
    """A part of a schema whose length has no limit, or that is not understood."""


def longest_json(schema: Any, path: Sequence[str | int] = ()) -> int | None:
    """Return the maximum number of characters of a JSON text that ``schema`` allows, with a space after each comma and colon.

    With a ``path``, that of the value which it leads to. ``None`` if a string, array or object in it is unlimited, or if that is unknown.
    """
    try:
        return _longest(schema, schema, 0, path)
    except _Unlimited:
        return None


def _longest(schema: Any, root: Any, depth: int, path: Sequence[str | int] = ()) -> int:
    if not isinstance(schema, dict) or depth > _DEPTH:
        raise _Unlimited
    if values := [schema["const"]] if "const" in schema else schema.get("enum"):
        return max(len(json.dumps(value, ensure_ascii=False)) for value in values)
    if str(schema.get("$ref", "")).startswith("#"):
        return _longest(resolve_pointer(root, schema["$ref"][1:]), root, depth + 1, path)
    if branches := schema.get("anyOf") or schema.get("oneOf") or ("type" not in schema and schema.get("allOf")):
        return max(_longest(branch, root, depth + 1, path) for branch in branches)
    if path:
        kind, item = "array" if isinstance(path[0], int) else "object", schema.get("items")
        part = item if kind == "array" else schema.get("properties", {}).get(path[0], schema.get("additionalProperties"))
        return 0 if part is False or kind not in schema.get("type", kind) else _longest(part, root, depth + 1, path[1:])
    kinds = schema.get("type") or ["any"]
    return max(_longest_of(kind, schema, root, depth + 1) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _longest_of(kind: str, schema: dict[str, Any], root: Any, depth: int) -> int:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind == "string" and (limit := schema.get("maxLength", _FORMATS.get(schema.get("format", "")))) is not None:
        return int(limit) + 2
    if kind == "array" and "maxItems" in schema and "prefixItems" not in schema:
        return 2 + int(schema["maxItems"]) * (2 + _longest(schema.get("items"), root, depth) if schema["maxItems"] else 0)
    if kind == "object" and schema.get("additionalProperties") is False and "patternProperties" not in schema:
        members = schema.get("properties", {}).items()
        return 2 + sum(len(json.dumps(name, ensure_ascii=False)) + 4 + _longest(value, root, depth) for name, value in members)
    raise _Unlimited


def loop_rule(references: Iterable[str | None], tokenizer: TokenizerWrapper, schema: Any = None) -> LoopRule:
    """Return the rule for answers to rows with these ``references``, which should satisfy ``schema`` if there is one."""
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in references if text]
    least = max(LEAST, FACTOR * longest_repetition(texts))
    return LoopRule(least) if schema is None else LoopRule(least, partial(schema_allows_repetition, schema=schema))


def longest_repetition(texts: Iterable[Sequence[int]]) -> int:
    """Return the maximum number of repeated tokens, as :class:`LoopDetector` counts them, of the loops in ``texts``; else 0."""
    import numpy as np  # the command line's help does not need it

    tokens = np.array([token for number, text in enumerate(texts, 1) for token in (*text, -number)])
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(tokens) - 1) + 1):
        changes = np.flatnonzero(tokens[period:] != tokens[:-period])
        count = int(np.diff(changes, prepend=-1).max(initial=1)) - 1
        longest = max(longest, count if count >= max(LEAST, COPIES * period) else 0)
    return longest


def schema_allows_repetition(answer: str, schema: Any) -> bool:
    """Return whether ``answer``, which repeats itself, may be the beginning of JSON that ``schema`` allows.

    Without a limit, items may be repeated, but not the text within a string.
    """
    error, longest, text = find_syntax_error(answer), longest_json(schema), _ESCAPE.sub("_", re.sub(r"\s+", " ", answer))
    if error is None or not error.at_end:
        return False
    if longest is not None:
        return len(text) < longest
    return not (text.count('"') % 2 and is_loop(text.rpartition('"')[2])) or schema_ends(answer, schema)


def schema_ends(answer: str, schema: Any) -> bool:
    """Return whether a grammar of ``schema`` would end ``answer``, or the string in which it was cut off, at a higher limit."""
    if longest_json(schema) is not None:
        return True
    text, closing, path = _ESCAPE.sub("_", answer), "", []
    for token in BRACKETS.findall(text):
        closing = {"[": "]", "{": "}"}.get(token, "") + closing[token in ("]", "}") :]
    try:
        value = parse_json(f'{text}"{closing}')
    except InvalidJSON:  # it does not end in a string
        return False
    while isinstance(value, dict | list):
        step, value = [*(value.items() if isinstance(value, dict) else enumerate(value))][-1]
        path.append(step)
    return len(value) + 2 <= (longest_json(schema, path) or 0)
