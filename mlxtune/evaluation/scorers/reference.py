"""How the output compares with the answer that the data gives: equal, and field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import at_pointer, find
from mlxtune.evaluation.scorers.json_text import Refused, parse
from mlxtune.evaluation.scorers.words import answered


def same_answer(answer: Answer) -> Score:
    """Whether the output equals the reference: as JSON values where both are JSON, as texts without outer space otherwise."""
    output, reference = answered(answer.output).strip(), (answer.reference or "").strip()
    try:
        same = leaves(parse(output)) == leaves(parse(reference))
    except Refused:
        same = output == reference
    return HOLDS if same else Score(False, "other", "it differs from the reference")


def same_fields(answer: Answer, fields: Sequence[str] = ()) -> Score:
    """Field-level F1 of the output's JSON value against the reference's, as ``value``; it holds when all fields agree.

    A field is a leaf: a JSON pointer with a value, 1 and 1.0 equal, 1 and true not. F1 is twice the fields both have, over the
    fields of both. ``fields`` are JSON pointers: then only what lies below them counts. The value may stand in a fence or in prose,
    since this is about what it says; an output without one has no field right.
    """
    wanted, got = (_fields(text, fields) for text in (answer.reference or "", answered(answer.output)))
    if not wanted and not got:
        return Score(True, value=1.0)
    shared = wanted & got
    value = 2 * shared.total() / (wanted.total() + got.total())
    if value == 1:
        return Score(True, value=1.0)
    wrong = sorted(path or "/" for path, _ in (wanted | got) - shared)
    return Score(
        False, one_line(wrong[0], 40), f"other than the reference: {one_line(', '.join(dict.fromkeys(wrong)), 160)}", value
    )


def leaves(value: Any) -> Counter[tuple[str, object]]:
    """The leaves of a JSON value as (JSON pointer, value), empty objects and arrays among them."""
    found: Counter[tuple[str, object]] = Counter()
    waiting = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict | list) and item:
            members = item.items() if isinstance(item, dict) else enumerate(item)
            waiting += [(f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}", member) for name, member in members]
        else:
            found[path, (type(item).__name__, str(item)) if isinstance(item, bool | dict | list) else item] += 1
    return found


def _fields(text: str, fields: Sequence[str]) -> Counter[tuple[str, object]]:
    found = find(text)
    if not found:
        return Counter()
    if not fields:
        return leaves(found[0])
    parts = ((at, at_pointer(found[0], at)) for at in fields)
    return Counter(
        {(at + path, value): count for at, part in parts if part is not None for (path, value), count in leaves(part).items()}
    )
