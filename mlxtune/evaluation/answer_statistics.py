"""Statistics of an arm's answers: how many were cut off at the token limit, and how long they were.

An answer that was cut off while it repeated itself would not have ended later either. One that was still going might have passed
with a higher limit, so a comparison in which many answers of the losing arm were still going says little about the arms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlxtune.evaluation.scorers import THINKING_LIMIT

MAX_CUT = 0.05  # largest share of answers cut off while still going with which an arm may lose a comparison
_LENGTH = 16  # characters per n-gram
_TAIL = 64  # characters at the end of an answer, at least, in which n-grams are counted
_SHARE = 0.8  # of the n-grams in the tail that occurred before, in a loop
_CUT = ("length", THINKING_LIMIT)


class Answer(Protocol):
    """An answer whose ``answer_tokens`` is ``None`` in evaluations by older versions, which did not store it."""

    @property
    def output(self) -> str: ...
    @property
    def ended(self) -> str: ...
    @property
    def thought(self) -> str: ...
    @property
    def answer_tokens(self) -> int | None: ...


@dataclass(frozen=True)
class AnswerStatistics:
    """``cut`` answers were cut off while still going and ``loops`` while repeating themselves; all have ``tokens`` tokens in total."""

    cut: int
    loops: int
    tokens: int


def answer_statistics(answers: Sequence[Answer]) -> AnswerStatistics | None:
    """Return the statistics of ``answers``, or ``None`` if they were stored without their lengths."""
    lengths = [answer.answer_tokens for answer in answers if answer.answer_tokens is not None]
    if len(lengths) < len(answers):
        return None
    at_limit = [answer.thought if answer.ended == THINKING_LIMIT else answer.output for answer in answers if answer.ended in _CUT]
    loops = sum(map(is_loop, at_limit))
    return AnswerStatistics(len(at_limit) - loops, loops, sum(lengths))


def is_loop(text: str) -> bool:
    """Return whether ``text`` ends in a loop: nearly all n-grams of characters in its last quarter occurred before it.

    Numbers count as equal, so that a list that repeats one item is a loop, too.
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
