"""Add missing disclaimers to a reference answer at the place that the contract expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.disclaimer import score_disclaimers
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json
from mlxtune.evaluation.scorers.json_search import resolve_pointer, string_values
from mlxtune.recipe import Disclaimer


def add_missing_disclaimers(answer: str, rules: Sequence[Disclaimer]) -> str | None:
    """Return the reference ``answer`` with the missing disclaimers that its own fields require.

    In a JSON answer, a disclaimer is appended to the field that the rule names, or else to the longest string; in any other answer,
    it becomes a new paragraph. Returns ``None`` if nothing is missing or if another fault would remain, such as a misplaced one.
    """
    fixed = answer
    for rule in rules:
        missing = score_disclaimers(ModelAnswer(fixed, reference=fixed), [rule]).kind == "missing"
        sentence = next((phrase.text for phrase in rule.phrases if phrase.match != "regex"), "")
        if missing and sentence:
            fixed = _added(fixed, sentence, rule.at)
    return fixed if fixed != answer and score_disclaimers(ModelAnswer(fixed, reference=fixed), rules).passed else None


def _added(answer: str, sentence: str, at: str) -> str:
    try:
        value: Any = parse_json(answer)
    except InvalidJSON:
        return f"{answer.rstrip()}\n\n{sentence}" if answer.strip() else answer
    field = resolve_pointer(value, at) if at.startswith("/") else max(string_values(value), key=len, default=None)
    if not isinstance(field, str):
        return answer
    separator = "\n\n" if at == "last paragraph" else " "
    extended = f"{field.rstrip()}{separator}{sentence}"
    for ascii_only in (False, True):  # keeps the rest of the text unchanged if the field can be found in it
        old, new = (json.dumps(text, ensure_ascii=ascii_only) for text in (field, extended))
        if answer.count(old) == 1:
            return answer.replace(old, new)
    return answer
