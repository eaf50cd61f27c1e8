"""Statistics of an arm's answers: how many were cut off at the token limit, how long they were, and how long they took.

An answer that was cut off while it repeated itself would not have ended later either. One that was still going might have passed
with a higher limit, unless it had failed for good already, so a comparison in which many answers of the losing arm were still going says
little about the arms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.core.json_fields import optional
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, GRAMMAR_LIMIT, LOOP, PASS, THINKING_LIMIT, THINKING_LOOP, Score

if TYPE_CHECKING:
    from mlxtune.evaluation.answers import Answer

MAX_CUT = 0.05  # an arm cannot lose a comparison if a larger share of its answers was cut off and might still have passed
_LENGTH = 16  # characters per n-gram
_TAIL = 64  # minimum number of characters at the end of an answer in which n-grams are counted
_SHARE = 0.5  # minimum share of repeated n-grams in the tail of a loop; it is below a tenth in ordinary answers
_LOOPS = (LOOP, THINKING_LOOP)
_CUT = ("length", GRAMMAR_LIMIT, THINKING_LIMIT, *_LOOPS)


@dataclass(frozen=True)
class AnswerStatistics:
    """How an arm's answers ended, and how long they are and take."""

    cut: int  # answers that were cut off while still going
    loops: int  # answers that were cut off while repeating themselves
    tokens: int  # of all answers
    p50: float | None = optional(None)  # a percentile of the seconds per answer, if all were measured
    p95: float | None = optional(None)
    failed: int = 0  # of the cut answers, those that had failed for good, for example because they were too long

    @property
    def undecided(self) -> int:
        """The number of answers that were cut off and might have passed with a higher limit."""
        return self.cut - self.failed


def answer_statistics(answers: Sequence[Answer]) -> AnswerStatistics:
    """Return the statistics of ``answers``."""
    cut = [answer for answer in answers if answer.ended in _CUT]
    going = [answer for answer in cut if not _repeats(answer)]
    failed = sum(not is_undecided(answer) for answer in going)
    seconds = sorted(answer.seconds for answer in answers if answer.seconds is not None)
    p50, p95 = (_percentile(seconds, share) if seconds and len(seconds) == len(answers) else None for share in (0.5, 0.95))
    tokens = sum(answer.answer_tokens for answer in answers)
    return AnswerStatistics(len(going), len(cut) - len(going), tokens, p50, p95, failed)


def is_undecided(answer: Answer) -> bool:
    """Return whether ``answer`` was cut off and might have passed with a higher limit."""
    return answer.ended in _CUT and not _repeats(answer) and not _deciding(answer.scores).is_final


def _deciding(by_metric: Mapping[str, Score]) -> Score:
    """Return the score that the verdict counts: whether the answer is correct or, without a reference, meets the contract."""
    return by_metric.get(CORRECT) or by_metric.get(CONTRACT, PASS)


def _repeats(answer: Answer) -> bool:
    if answer.ended == GRAMMAR_LIMIT:
        return False
    return answer.ended in _LOOPS or is_loop(answer.thought if answer.ended == THINKING_LIMIT else answer.output)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def is_loop(text: str) -> bool:
    """Return whether ``text`` ends in a loop: most n-grams of characters in its last quarter occurred before it.

    Numbers count as equal, so a list that repeats one item is also a loop. :class:`~mlxtune.models.thoughts.LoopDetector`, which ends
    answers, counts exact repetition only.
    """
    text = re.sub(r"\d+", "0", text.casefold())
    grams = [text[start : start + _LENGTH] for start in range(len(text) - _LENGTH + 1)]
    tail = len(grams) - max(len(text) // 4, min(_TAIL, len(text) // 2))
    if tail <= 0:
        return False
    earlier = set(grams[:tail])
    repeated = 0
    for gram in grams[tail:]:
        repeated += gram in earlier
        earlier.add(gram)
    return repeated >= _SHARE * (len(grams) - tail)
