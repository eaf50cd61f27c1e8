"""Does the output keep clear of phrases that must never be said, such as a competitor's name?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxtune.evaluation.scorers import HOLDS, Score
from mlxtune.evaluation.scorers.disclaimer import normalised


def not_forbidden(output: str, phrases: Sequence[str]) -> Score:
    """Whether none of ``phrases`` stands in ``output`` as whole words, case and spacing apart."""
    heard = normalised(output)
    for phrase in phrases:
        if re.search(rf"(?<!\w){re.escape(normalised(phrase))}(?!\w)", heard):
            return Score(False, "forbidden", f"it says “{phrase}”")
    return HOLDS
