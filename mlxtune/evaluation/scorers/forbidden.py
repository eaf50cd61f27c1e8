"""Does the output keep clear of phrases that must never be said, such as a competitor's name?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxtune.evaluation.scorers import HOLDS, Score
from mlxtune.evaluation.scorers.disclaimer import json_value, normalised, strings


def not_forbidden(output: str, phrases: Sequence[str]) -> Score:
    """Whether none of ``phrases`` stands in ``output`` as whole words, case and spacing apart.

    In JSON outputs, escapes are resolved too: ``\\n`` before a name or ``\\u0041`` in it hides nothing.
    """
    heard = normalised(" ".join([output, *strings(json_value(output))]))
    for phrase in phrases:
        if re.search(rf"(?<!\w){re.escape(normalised(phrase))}(?!\w)", heard):
            return Score(False, "forbidden", f"it says “{phrase}”")
    return HOLDS
