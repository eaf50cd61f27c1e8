"""Preference pairs: answers that differ in nothing that matters, and a preference for mere length."""

from __future__ import annotations

import math
import statistics
import unicodedata
from collections.abc import Iterator

from mlxtune.core.text import plural
from mlxtune.data.checks.finding import CHECKS, UNUSABLE, Finding, Span, enter, row_check, whole_check
from mlxtune.data.checks.look import Look
from mlxtune.data.checks.survey import Survey
from mlxtune.data.rows import Preference

_PAIRS = 20  # fewer say nothing about length
_SHARE = 0.7  # of pairs whose chosen answer is the longer one
_RATIO = 1.2  # of the lengths of chosen and rejected, at the median


@row_check("same-pair", "block", "pairs whose answers are the same", UNUSABLE, "✗")
def same(look: Look) -> Iterator[tuple[str, tuple[Span, ...]]]:
    row = look.row
    if isinstance(row, Preference) and normalised(row.chosen) == normalised(row.rejected):
        why = "Chosen and rejected say the same but for case, spacing and how they end: there is nothing to prefer."
        yield why, (Span("chosen", 0, len(row.chosen), row.chosen[:60]), Span("rejected", 0, len(row.rejected), row.rejected[:60]))


def normalised(text: str) -> str:
    """NFKC, case folded, spacing and the punctuation at both ends apart: two answers with one of these say the same.

    Signs inside stay: in code and figures they are what differs.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?…\"'“”‘’*`") or text


LENGTH = enter("length-bias", "warn", "a preference for length")


@whole_check
def length(survey: Survey) -> Iterator[Finding]:
    """Chosen answers that are longer in most pairs: a policy learns length first (Singhal et al. 2023, arXiv:2310.03716)."""
    pairs = [(chosen, rejected) for chosen, rejected in survey.pairs if chosen != rejected]
    if len(pairs) < _PAIRS:
        return
    for name, ratios in (
        ("longer", [chosen / max(1, rejected) for chosen, rejected in pairs]),
        ("shorter", [rejected / max(1, chosen) for chosen, rejected in pairs]),
    ):
        share, middle = sum(ratio > 1 for ratio in ratios) / len(ratios), statistics.median(ratios)
        sure = share - 1.96 * math.sqrt(0.25 / len(ratios)) > 0.5
        if share >= _SHARE and middle >= _RATIO and sure:
            why = (
                f"The chosen answer is {name} in {100 * share:.0f} % of {plural(len(ratios), 'pair')}, {middle:.1f} times at the median: "
                f"the model may learn to be {'long' if name == 'longer' else 'short'}, and nothing else."
            )
            yield Finding(LENGTH.id, CHECKS[LENGTH.id].severity, (), why)
