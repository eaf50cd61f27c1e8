"""Required pattern: the output matches a regular expression, such as a final line ``#### 42``."""

from functools import partial

import regex

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.output_text import strip_thinking
from mlxtune.evaluation.scorers.phrase_match import TIME_LIMIT


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


SCORER = Scorer(
    "pattern",
    "required pattern",
    lambda contract: partial(score_pattern, pattern=pattern) if (pattern := contract.section.answer_pattern) else None,
    replaces_json=True,
)
