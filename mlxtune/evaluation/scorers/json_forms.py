"""JSON in an output: valid JSON, or JSON that a program would find in the text."""

import re

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, find_json, parse_json
from mlxtune.evaluation.scorers.output_text import THINKING

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)


def score_json(answer: ModelAnswer) -> Score:
    """Score whether the whole output is one JSON text (RFC 8259). Fences, surrounding prose, NaN and trailing commas fail.

    The class of failure reports text around the JSON before faults inside it, and the token limit before unclosed brackets. A failure
    is final unless the output is the beginning of a JSON text.
    """
    try:
        parse_json(answer.output)
    except InvalidJSON as error:
        return Score(False, *_failure(answer, error), is_final=not error.at_end)
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
    if error.at_end and answer.interruption:
        return answer.interruption, f"{in_words(answer.interruption)}: {error}"
    if error.kind in ("bad_word", "bad_number", "syntax", "text_after_it") and text[0] not in '{["':
        return "prose", f"the output starts with text: {one_line(text, 40)}"
    return error.kind, str(error)


def score_extracted(answer: ModelAnswer) -> Score:
    """Score whether the first balanced value in the output is JSON, whatever surrounds it. No repair could achieve more."""
    return PASS if find_json(answer.output) else Score(False, "no_json_in_it", "no balanced object or array is JSON")


VALID = Scorer("json", "valid JSON", lambda contract: score_json if contract.wants_json else None)
EXTRACTED = Scorer(
    "extracted", "contains JSON", lambda contract: score_extracted if contract.wants_json else None, required=False, is_form=True
)
