"""Agreement with the reference answer: exact equality, and F1 over JSON fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json
from mlxtune.evaluation.scorers.json_search import find_json, resolve_pointer
from mlxtune.evaluation.scorers.output_text import strip_thinking


def score_exact(answer: ModelAnswer) -> Score:
    """Score whether the output equals the reference: as JSON values if both are JSON, else as stripped text.

    A failure is final if the output begins neither like the reference nor like JSON.
    """
    output, reference = strip_thinking(answer.output).strip(), (answer.reference or "").strip()
    try:
        same = leaves(parse_json(output)) == leaves(parse_json(reference))
    except InvalidJSON:
        same = output == reference
    if same:
        return PASS
    is_final = not reference.startswith(output) and not _begins_like_json(output)
    return _different(answer, Score(False, "other", "the output differs from the reference", is_final=is_final))


def _begins_like_json(text: str) -> bool:
    try:
        parse_json(text)
    except InvalidJSON as error:
        return error.at_end
    return True


def score_fields(answer: ModelAnswer, fields: Sequence[str] = ()) -> Score:
    """Score the field-level F1 of the output's JSON value against the reference's, as ``value``. Passes if all fields match.

    A field is a leaf: a JSON Pointer with a value. The number 1 equals 1.0 but not true. F1 is twice the number of shared fields
    divided by the total in both. ``fields`` are JSON Pointers that restrict the comparison. JSON in a fence or in prose counts too.
    """
    expected, actual = (_fields(text, fields) for text in (answer.reference or "", strip_thinking(answer.output)))
    if not expected and not actual:
        return Score(True, value=1.0)
    shared = expected & actual
    value = 2 * shared.total() / (expected.total() + actual.total())
    if value == 1:
        return Score(True, value=1.0)
    wrong = sorted(path or "/" for path, _ in (expected | actual) - shared)
    why = f"differs from the reference: {one_line(', '.join(dict.fromkeys(wrong)), 160)}"
    return _different(answer, Score(False, one_line(wrong[0], 40), why, value))


def _different(answer: ModelAnswer, score: Score) -> Score:
    """Return ``score``, a failure, with the class and the reason of an answer that did not end on its own if it is one."""
    cut = answer.interruption
    return replace(score, kind=cut, detail=f"{in_words(cut)}, and {score.detail}") if cut else score


def leaves(value: Any) -> Counter[tuple[str, object]]:
    """Return the leaves of a JSON value as (JSON Pointer, value), including empty objects and arrays."""
    counts: Counter[tuple[str, object]] = Counter()
    stack = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict | list) and item:
            members = item.items() if isinstance(item, dict) else enumerate(item)
            stack += [(f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}", member) for name, member in members]
        else:
            counts[path, (type(item).__name__, str(item)) if isinstance(item, bool | dict | list) else item] += 1
    return counts


def _fields(text: str, fields: Sequence[str]) -> Counter[tuple[str, object]]:
    match = find_json(text)
    if not match:
        return Counter()
    if not fields:
        return leaves(match[0])
    parts = ((pointer, resolve_pointer(match[0], pointer)) for pointer in fields)
    return Counter(
        {
            (pointer + path, value): count
            for pointer, part in parts
            if part is not None
            for (path, value), count in leaves(part).items()
        }
    )


EXACT = Scorer(
    "exact",
    "exact match",
    lambda contract: score_exact if "exact" in contract.section.reference else None,
    required=False,
    needs_reference=True,
)
FIELDS = Scorer(
    "fields",
    "fields match reference",
    lambda contract: partial(score_fields, fields=contract.section.fields) if "fields" in contract.section.reference else None,
    required=False,
    needs_reference=True,
)
