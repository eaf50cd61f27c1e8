"""The token limit of answers, derived from the reference answers so that it does not favor any arm, and when a loop is ended earlier.

Under a grammar, an answer may have to be longer, because it ends only where the schema allows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlxtune.data.rows import Row, TextRow
from mlxtune.evaluation.answers import is_loop
from mlxtune.evaluation.scorers.json_parser import BRACKETS, find_syntax_error, resolve_pointer
from mlxtune.models.thoughts import COPIES, LEAST, MAX_PERIOD, LoopRule
from mlxtune.recipe import AUTO, EvaluationSection

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


FACTOR = 2  # times the longest reference answer
MINIMUM_EXTRA = 64  # tokens more than the longest reference answer, at least
WITHOUT_REFERENCE = 256  # tokens, if no row has a reference answer
GRAMMAR_FACTOR = 8  # times the limit of other answers, at most, for those under a grammar

_SCALARS = {"null": 4, "boolean": 5, "integer": 24, "number": 24}  # a number of more characters has more digits than a double
_FORMATS = {"date": 10, "time": 20, "date-time": 35, "uuid": 36, "ipv4": 15, "ipv6": 45}
_DEPTH = 64


def auto_limit(longest: int, room: int | None = None) -> int:
    """Return the limit for a longest reference answer of ``longest`` tokens, if ``room`` tokens are left in the model's context."""
    limit = max(FACTOR * longest, longest + MINIMUM_EXTRA) if longest else WITHOUT_REFERENCE
    return limit if room is None else max(1, min(limit, room))


def grammar_limit(limit: int, schema: Any, room: int | None = None) -> int:
    """Return the limit under a grammar of ``schema``: enough for its longest answer at a token per character, if it has a length."""
    needed = min(longest_json(schema) or 0, GRAMMAR_FACTOR * limit)
    return max(limit, needed if room is None else min(needed, room))


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
    limit = auto_limit(longest, room)
    wide, widest = grammar_limit(limit, schema, room), grammar_limit(auto_limit(longest), schema)
    is_limited = limit < auto_limit(longest) or wide < widest
    return AnswerBudget(limit, longest, room if is_limited else None, wide if wide > limit else None)


class _Unlimited(Exception):
    """A part of a schema whose length has no limit, or that is not understood."""


def longest_json(schema: Any) -> int | None:
    """Return the maximum number of characters of a JSON text that ``schema`` allows, with a space after each comma and colon.

    ``None`` if a string, array or object in it is unlimited, or if that is unknown.
    """
    try:
        return _longest(schema, schema, 0)
    except _Unlimited:
        return None


def _longest(schema: Any, root: Any, depth: int) -> int:
    if not isinstance(schema, dict) or depth > _DEPTH:
        raise _Unlimited
    if values := [schema["const"]] if "const" in schema else schema.get("enum"):
        return max(len(json.dumps(value, ensure_ascii=False)) for value in values)
    if str(schema.get("$ref", "")).startswith("#"):
        return _longest(resolve_pointer(root, schema["$ref"][1:]), root, depth + 1)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return max(_longest(branch, root, depth + 1) for branch in branches)
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


FACTOR = 2  # times the longest repetition in a reference answer


def loop_rule(references: Iterable[str | None], tokenizer: TokenizerWrapper, schema: Any = None) -> LoopRule:
    """Return the rule for answers to rows with these ``references``, which should satisfy ``schema`` if there is one."""
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in references if text]
    least = max(LEAST, FACTOR * longest_repetition(texts))
    return LoopRule(least) if schema is None else LoopRule(least, partial(schema_allows_repetition, longest=longest_json(schema)))


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


def schema_allows_repetition(answer: str, longest: int | None) -> bool:
    """Return whether ``answer``, which repeats itself, may be the beginning of JSON that a schema allows.

    ``longest`` is the length of the longest such text. Without a limit, items may be repeated, but not the text within a string.
    """
    error = find_syntax_error(answer)
    if error is None or not error.at_end:
        return False
    if longest is not None:
        return len(answer) < longest
    *_, last = ["", *(match[0] for match in BRACKETS.finditer(answer))]
    return not is_loop(last)
