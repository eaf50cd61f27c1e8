"""Is the output, or one of its JSON fields, no shorter and no longer than it may be?"""

from __future__ import annotations

from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import at_pointer, find
from mlxtune.evaluation.scorers.words import answered
from mlxtune.recipe import Length


def within_length(answer: Answer, limit: Length) -> Score:
    """Whether the characters or words, thoughts not counted, lie between the limits; a field that is no text is a failure."""
    text = answered(answer.output).strip()
    if limit.at:
        found = find(text)
        part = at_pointer(found[0], limit.at) if found else None
        if not isinstance(part, str):
            return Score(False, "no text", f"{limit.at} is no text")
        text = part
    count = len(text.split()) if limit.unit == "words" else len(text)
    if count < limit.min:
        return Score(False, "too short", f"{count:,} {limit.unit}, at least {limit.min:,}")
    if limit.max and count > limit.max:
        return Score(False, "too long", f"{count:,} {limit.unit}, at most {limit.max:,}")
    return HOLDS
