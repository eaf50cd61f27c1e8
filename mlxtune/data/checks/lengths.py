"""Find rows that do not fit in the token window, and answers much longer or shorter than the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlxtune.core.text import plural
from mlxtune.data.checks.base import DROP, Check, CheckFamily, Finding, Span
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.rows import Preference

_MIN_ROWS = 12  # with fewer rows, no length is usual
_FENCES = 3.0  # Tukey's outer fences, in interquartile ranges of the log length
_RATIO = 4.0  # an outlier is also at least this many times longer or shorter than the median

Reasons = Iterator[tuple[str, tuple[Span, ...]]]
family = CheckFamily()


@family.row_check(Check("prompt-fills-window", "block", "rows with no tokens to train on", DROP, "✗", short="no room"))
def prompt_fills_window(row: CheckInput) -> Reasons:
    if not row.skip_too_long:
        yield from _no_room(row, "nothing is left to train on")


@family.row_check(Check("too-long", "warn", "rows skipped because they are too long", DROP, short="skipped"))
def too_long(row: CheckInput) -> Reasons:
    if row.skip_too_long:
        yield from _no_room(row, "the row is skipped in training")


def _no_room(row: CheckInput, effect: str) -> Reasons:
    tokens = row.tokens
    if tokens and not tokens.error and tokens.prompt >= row.max_tokens:
        yield f"The prompt has {tokens.prompt:,} tokens, but the window has {row.max_tokens:,}, so {effect}.", ()


@family.row_check(Check("truncated", "warn", "rows that would be truncated", DROP))
def truncated(row: CheckInput) -> Reasons:
    tokens = row.tokens
    if tokens and not tokens.error and tokens.prompt < row.max_tokens < tokens.total:
        cut = tokens.total - row.max_tokens
        subject = "The prompt and its longer answer have" if isinstance(row.row, Preference) else "The row has"
        yield f"{subject} {tokens.total:,} tokens; the last {cut:,} would be truncated, including the stop token.", ()


_OUTLIER = family.register(Check("length-outlier", "note", "answers with an unusual length", DROP, "·", short="length"))


@family.corpus_check
def outliers(corpus: Corpus) -> Iterator[Finding]:
    """Find answers, and chosen answers of pairs, whose log length is outside the outer fences.

    This is a note, because short and long answers may be right.
    """
    answers = {rank: length for rank, length in enumerate(corpus.answers) if rank not in corpus.pairs}
    chosen = {rank: first for rank, (first, _) in corpus.pairs.items()}
    for name, lengths in (("answer", answers), ("chosen answer", chosen)):
        if len(lengths) < _MIN_ROWS:
            continue
        low, median, high = length_bounds([*lengths.values()])
        for rank, length in lengths.items():
            if length < low or length > high:
                reason = f"The {name} has {plural(length, 'character')}; the median is {median:,.0f}."
                yield Finding(_OUTLIER.id, _OUTLIER.severity, (corpus.indices[rank],), reason)


def length_bounds(lengths: Sequence[int]) -> tuple[float, float, float]:
    """Return the shortest usual length, the median, and the longest usual length."""
    logs = np.log(np.maximum(np.asarray(lengths, np.float64), 1))
    first, median, third = np.percentile(logs, (25, 50, 75))
    reach = _FENCES * (third - first)
    low, high = min(first - reach, median - math.log(_RATIO)), max(third + reach, median + math.log(_RATIO))
    return math.exp(low), math.exp(median), math.exp(high)
