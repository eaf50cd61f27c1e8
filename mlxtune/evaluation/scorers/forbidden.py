"""Does the output keep clear of phrases that must never be said, such as a competitor's name?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import find, strings
from mlxtune.evaluation.scorers.words import normalised

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrtbf])")


def not_forbidden(answer: Answer, phrases: Sequence[str]) -> Score:
    """Whether none of ``phrases`` stands in the output as whole words, case and spacing apart, thoughts and names included.

    Escapes are resolved too, also in JSON that was cut off: ``\\n`` before a name or ``\\u0041`` in it hides nothing.
    """
    found = find(answer.output)
    unescaped = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else " ", answer.output)
    heard = normalised("\n".join([answer.output, unescaped, *(strings(found[0]) if found else ())]))
    for phrase in phrases:
        if re.search(rf"(?<!\w){re.escape(normalised(phrase))}(?!\w)", heard):
            return Score(False, "forbidden", f"it says “{phrase}”")
    return HOLDS
