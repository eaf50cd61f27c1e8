"""A curator's shortest mend: the disclaimer that an answer lacks, put where the contract looks for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.scorers.disclaimer import right_disclaimer
from mlxtune.evaluation.scorers.json_find import at_pointer, strings
from mlxtune.evaluation.scorers.json_text import Refused, parse
from mlxtune.recipe import Disclaimer


def with_disclaimers(answer: str, rules: Sequence[Disclaimer]) -> str | None:
    """``answer``, its own reference, with every disclaimer that it calls for and lacks.

    In a JSON answer a disclaimer ends the field that the rule names, else the longest string; in another it is a paragraph of
    its own. ``None`` where nothing lacks, or where that would not make all disclaimers right: one is out of place, say.
    """
    mended = answer
    for rule in rules:
        lacking = right_disclaimer(Answer(mended, reference=mended), [rule]).kind == "missing"
        sentence = next((phrase.text for phrase in rule.phrases if phrase.match != "regex"), "")
        if lacking and sentence:
            mended = _added(mended, sentence, rule.at)
    return mended if mended != answer and right_disclaimer(Answer(mended, reference=mended), rules).holds else None


def _added(answer: str, sentence: str, at: str) -> str:
    try:
        value: Any = parse(answer)
    except Refused:
        return f"{answer.rstrip()}\n\n{sentence}" if answer.strip() else answer
    field = at_pointer(value, at) if at.startswith("/") else max(strings(value), key=len, default=None)
    if not isinstance(field, str):
        return answer
    gap = "\n\n" if at == "last paragraph" else " "
    grown = f"{field.rstrip()}{gap}{sentence}"
    for ascii_only in (False, True):  # the rest of the text stays as it was written, where the field can be found in it
        old, new = (json.dumps(text, ensure_ascii=ascii_only) for text in (field, grown))
        if answer.count(old) == 1:
            return answer.replace(old, new)
    return answer
