"""Would a program that searches the output for JSON find some?"""

from __future__ import annotations

from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import find


def json_extracted(answer: Answer) -> Score:
    """Whether the first balanced value in the output is JSON, whatever stands around it: the most that repair could reach."""
    return HOLDS if find(answer.output) else Score(False, "no JSON in it", "no balanced object or array in it is JSON")
