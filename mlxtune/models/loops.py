"""Detect when a greedy answer repeats itself, so that it can end before the token limit.

Greedy decoding cannot leave a loop by chance, and each time a model copies a passage, it becomes more likely to copy it again (Xu
et al. 2022, arXiv:2206.02369). Only exact repetition counts: a list with increasing numbers continues. An answer that repeats
itself less exactly continues to its limit; evaluations still count it as a loop (``evaluation.answer_statistics.is_loop``).
"""

from __future__ import annotations

COPIES = 2  # repetitions of a passage after its first occurrence that make an answer a loop
LEAST = 32  # minimum number of repeated tokens
MAX_PERIOD = 96  # length of the longest passage that is recognized, in tokens


class LoopDetector:
    """Determines after each token whether the output ends in a passage that has repeated often enough to be a loop."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._matches: list[int] = []  # by period − 1: tokens at the end that equal those one period earlier

    def add(self, token: int) -> bool:
        """Append ``token``. Return whether the output is a loop."""
        earlier = self._tokens[: -MAX_PERIOD - 1 : -1]  # the last token first
        self._tokens.append(token)
        counts = self._matches + [0] * (len(earlier) - len(self._matches))
        self._matches = [count + 1 if other == token else 0 for count, other in zip(counts, earlier, strict=True)]
        return any(count >= max(LEAST, COPIES * period) for period, count in enumerate(self._matches, 1))
