"""Final number: the output ends with the same number as the reference, regardless of the wording before it.

As in GSM8K (Cobbe et al., 2021), the number follows ``####``, or it is in LaTeX's ``\\boxed{}``. Without such a mark it is the last
number in the text, as in the *flexible-extract* filter of EleutherAI's lm-evaluation-harness.
"""

from __future__ import annotations

import re
from decimal import Decimal

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, in_words
from mlxtune.evaluation.scorers.output_text import strip_thinking

_MARK = re.compile(r"####|\\boxed\s*\{")
_NUMBER = re.compile(r"((?<![\w)\]])[-−])?\$?(\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(\.\d+)?", re.ASCII)


def find_number(text: str) -> tuple[Decimal, tuple[int, int]] | None:
    """Return the final number in ``text`` and its span, or ``None`` if there is none. ``1,200`` and ``$1200.00`` are equal."""
    marks = list(_MARK.finditer(text))
    start = marks[-1].end() if marks else 0
    matches = [match for match in _NUMBER.finditer(text, start) if match[2] or match[3]]
    if not matches:
        return None
    match = matches[0 if marks else -1]
    sign, digits, fraction = (group or "" for group in match.groups())
    return Decimal(f"{'-' if sign else ''}{digits.replace(',', '')}{fraction}"), match.span()


def score_number(answer: ModelAnswer) -> Score:
    """Score whether the output's final number equals the reference's. Without a mark, an answer that did not end on its own fails."""
    output = strip_thinking(answer.output)
    found, expected = find_number(output), find_number(answer.reference or "")
    if expected is None:
        return Score(False, "no_reference", "the reference contains no number")
    if answer.interruption and not _MARK.search(output):
        return Score(
            False, answer.interruption, f"{in_words(answer.interruption)} before its final number, expected {expected[0]:f}"
        )
    if found is None:
        return Score(False, "no_number", f"contains no number, expected {expected[0]:f}")
    if found[0] != expected[0]:
        return Score(False, "other_number", f"the final number is {found[0]:f}, expected {expected[0]:f}")
    return PASS
