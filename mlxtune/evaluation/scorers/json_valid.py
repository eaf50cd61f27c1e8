"""Valid JSON: the whole output is one JSON text (RFC 8259). Fences, surrounding prose, NaN and trailing commas fail."""

from __future__ import annotations

import re

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import LOOP, PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json
from mlxtune.evaluation.scorers.output_text import THINKING

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)


def score_json(answer: ModelAnswer) -> Score:
    """Score whether the output is raw JSON.

    The class of failure reports text around the JSON before faults inside it, and the token limit before unclosed brackets.
    """
    try:
        parse_json(answer.output)
    except InvalidJSON as error:
        return Score(False, *_failure(answer, error))
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
    if error.at_end and answer.ended == LOOP:
        return "in_a_loop", f"ended in a loop: {error}"
    if error.at_end and answer.ended == "length":
        return "cut_off", f"cut off by the token limit: {error}"
    if error.kind in ("bad_word", "bad_number", "syntax", "text_after_it") and text[0] not in '{["':
        return "prose", f"the output starts with text: {one_line(text, 40)}"
    return error.kind, str(error)


SCORER = Scorer("json", "valid JSON", lambda contract: score_json if contract.wants_json else None)
