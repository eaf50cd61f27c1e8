"""Is the whole output one JSON text (RFC 8259)? Fences, prose around it, NaN and trailing commas are all no."""

from __future__ import annotations

import re

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_text import Refused, parse
from mlxtune.evaluation.scorers.words import THINKS

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)


def json_valid(answer: Answer) -> Score:
    """Whether the output is raw-valid JSON; otherwise the class of what is wrong.

    What was put around the JSON comes before what is wrong inside it, and the token limit before what it left open.
    """
    try:
        parse(answer.output)
    except Refused as refused:
        return Score(False, *_class(answer, refused))
    return HOLDS


def _class(answer: Answer, refused: Refused) -> tuple[str, str]:
    text = answer.output.strip()
    if refused.kind in ("too deep", "not UTF-8", "byte order mark"):
        return refused.kind, str(refused)
    if not text:
        return "empty", "there is no output"
    if THINKS.match(text):
        return "thinking", "it thinks aloud before it answers"
    if _FENCE.search(text):
        return "fence", "it stands in a code fence"
    if refused.at_end and answer.ended == "length":
        return "cut off", f"the token limit cut it off: {refused}"
    if refused.kind in ("bad word", "bad number", "syntax", "text after it") and text[0] not in '{["':
        return "prose", f"it begins with text: {one_line(text, 40)}"
    return refused.kind, str(refused)
