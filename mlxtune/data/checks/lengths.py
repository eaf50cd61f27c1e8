"""Rows that are far longer or shorter than the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlxtune.core.text import plural
from mlxtune.data.checks.finding import DROP, Finding, enter, whole_check
from mlxtune.data.checks.survey import Survey

OUTLIER = enter("length-outlier", "warn", "rows of unusual length", DROP)
_ROWS = 12  # fewer have no usual length
_FENCES = 3.0  # interquartile ranges beyond the quartiles, of the logarithm: Tukey's far out
_TIMES = 4.0  # and as many times the median, or a part of it


@whole_check
def outliers(survey: Survey) -> Iterator[Finding]:
    """Answers, and else prompts, outside of the far fences of all lengths' logarithms."""
    flagged: set[int] = set()
    for name, lengths in (("answer", survey.answers), ("prompt", [len(question) for question in survey.questions])):
        if len(lengths) < _ROWS:
            return
        low, middle, high = bounds(lengths)
        for rank, length in enumerate(lengths):
            if (length < low or length > high) and rank not in flagged:
                flagged.add(rank)
                why = f"The {name} has {plural(length, 'character')}, where the median is {middle:,.0f}."
                yield Finding(OUTLIER.id, OUTLIER.severity, (survey.at[rank],), why)


def bounds(lengths: Sequence[int]) -> tuple[float, float, float]:
    """The lowest length that is not unusual, the median, and the highest."""
    logs = np.log(np.maximum(np.asarray(lengths, np.float64), 1))
    first, middle, third = np.percentile(logs, (25, 50, 75))
    reach = _FENCES * (third - first)
    low, high = min(first - reach, middle - math.log(_TIMES)), max(third + reach, middle + math.log(_TIMES))
    return math.exp(low), math.exp(middle), math.exp(high)
