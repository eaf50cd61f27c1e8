"""Rules for any text: no forbidden phrase, a length within limits, and a required pattern, such as a final line ``#### 42``."""

import re
from collections.abc import Sequence
from functools import partial

import regex

from mlxtune.core.text import one_line
from mlxtune.data.rows import json_strings
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import find_json, resolve_pointer
from mlxtune.evaluation.scorers.output_text import strip_thinking
from mlxtune.evaluation.scorers.phrase_match import TIME_LIMIT, contains_words
from mlxtune.recipe import Length

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[rtbf])")


def score_forbidden(answer: ModelAnswer, phrases: Sequence[str]) -> Score:
    """Score whether none of ``phrases`` occurs as whole words, ignoring case and spacing. Reasoning and JSON names count too.

    Escapes are resolved, even in truncated JSON, so that ``\\n`` before a name or ``\\u0041`` in it hides nothing. Each string of a JSON
    value is a text of its own.
    """
    match = find_json(answer.output)
    text = answer.output.replace(r"\n", "\n")
    unescaped = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " ", text)
    texts = [answer.output, unescaped, *(json_strings(match[0]) if match else ())]
    for phrase in phrases:
        if any(contains_words(text, phrase) for text in texts):
            return Score(False, "forbidden", f"it contains “{phrase}”", is_final=True)
    return PASS


FORBIDDEN = Scorer(
    "forbidden", "no forbidden phrase",
    lambda contract: partial(score_forbidden, phrases=contract.section.forbid) if contract.section.forbid else None,
    replaces_json=True,
)  # fmt: skip


def score_length(answer: ModelAnswer, limit: Length) -> Score:
    """Score whether the length in characters or words, excluding reasoning, is within ``limit``. Non-string fields fail.

    If there is a maximum, an answer fails that did not end on its own, because its length is unknown.
    """
    text = strip_thinking(answer.output).strip()
    if limit.at:
        match = find_json(text)
        part = resolve_pointer(match[0], limit.at) if match else None
        if not isinstance(part, str):
            return Score(False, "no_text", f"{limit.at} is not a string")
        text = part
    count = len(text.split()) if limit.unit == "words" else len(text)
    if count < limit.min:
        return Score(False, "too_short", f"{count:,} {limit.unit}, at least {limit.min:,}")
    if limit.max and count > limit.max:
        return Score(False, "too_long", f"{count:,} {limit.unit}, at most {limit.max:,}", is_final=True)
    if limit.max and answer.interruption:
        return Score(False, answer.interruption, f"{in_words(answer.interruption)} after {count:,} {limit.unit}")
    return PASS


LENGTH = Scorer(
    "length", "allowed length",
    lambda contract: partial(score_length, limit=contract.section.length) if contract.section.length != Length() else None,
    replaces_json=True,
)  # fmt: skip


def score_pattern(answer: ModelAnswer, pattern: str) -> Score:
    """Score whether ``pattern`` matches somewhere in the output, excluding reasoning and surrounding whitespace."""
    try:
        found = regex.search(pattern, strip_thinking(answer.output).strip(), timeout=TIME_LIMIT)
    except TimeoutError:
        return Score(False, "pattern_too_slow", f"the pattern {one_line(pattern, 60)} timed out")
    if found:
        return PASS
    cut, shown = answer.interruption, one_line(pattern, 60)
    return Score(False, cut or "no_match", f"{in_words(cut)} without a match of {shown}" if cut else f"no match of {shown}")


PATTERN = Scorer(
    "pattern", "required pattern",
    lambda contract: partial(score_pattern, pattern=pattern) if (pattern := contract.section.answer_pattern) else None,
    replaces_json=True,
)  # fmt: skip
