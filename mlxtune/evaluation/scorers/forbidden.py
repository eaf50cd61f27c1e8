"""No forbidden phrase: the output avoids phrases such as a competitor's name."""

import re
from collections.abc import Sequence
from functools import partial

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_parser import find_json, string_values
from mlxtune.evaluation.scorers.phrase_match import contains_words

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrtbf])")


def score_forbidden(answer: ModelAnswer, phrases: Sequence[str]) -> Score:
    """Score whether none of ``phrases`` occurs as whole words, ignoring case and spacing. Reasoning and JSON names count too.

    Escapes are resolved, even in truncated JSON, so that ``\\n`` before a name or ``\\u0041`` in it hides nothing. Each string of a JSON
    value is a text of its own.
    """
    match = find_json(answer.output)
    unescaped = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " ", answer.output)
    texts = [answer.output, unescaped, *(string_values(match[0]) if match else ())]
    for phrase in phrases:
        if any(contains_words(text, phrase) for text in texts):
            return Score(False, "forbidden", f"it contains “{phrase}”", is_final=True)
    return PASS


SCORER = Scorer(
    "forbidden",
    "no forbidden phrase",
    lambda contract: partial(score_forbidden, phrases=contract.section.forbid) if contract.section.forbid else None,
    replaces_json=True,
)
