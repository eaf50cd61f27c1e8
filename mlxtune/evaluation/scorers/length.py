"""Length within limits: the output, or one of its JSON fields, is within the limits."""

from functools import partial

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import find_json, resolve_pointer
from mlxtune.evaluation.scorers.output_text import strip_thinking
from mlxtune.recipe import Length


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


SCORER = Scorer(
    "length",
    "allowed length",
    lambda contract: partial(score_length, limit=contract.section.length) if contract.section.length != Length() else None,
    replaces_json=True,
)
