"""Find rows that do not fit in the token window, and answers much longer or shorter than the others."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from mlxtune.data.checks.base import DROP, Check, CheckFamily, Evidence, Finding
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.rows import TextRow

_MIN_ROWS = 12  # with fewer rows, no length is usual
_FENCES = 3.0  # Tukey's outer fences, in interquartile ranges of the log length
_RATIO = 4.0  # an outlier is also at least this many times longer or shorter than the median

family = CheckFamily()
_NO_ROOM = "The prompt has {tokens:,} tokens, but the window has {window:,}, so "


_FILLED = Check(
    "prompt-fills-window", "block", "rows with no tokens to train on", f"{_NO_ROOM}nothing is left to train on.", DROP, "✗",
    short="no room",
)  # fmt: skip
_SKIPPED = Check(
    "too-long", "warn", "rows skipped because they are too long", f"{_NO_ROOM}the row is skipped in training.", DROP,
    short="skipped",
)  # fmt: skip


def _no_room(row: CheckInput, *, skipped: bool) -> Evidence | None:
    tokens = row.tokens if row.skip_too_long is skipped else None
    if not tokens or tokens.error or tokens.prompt < row.max_tokens:
        return None
    return Evidence(values={"tokens": tokens.prompt, "window": row.max_tokens})


family.row_check(_FILLED)(partial(_no_room, skipped=False))
family.row_check(_SKIPPED)(partial(_no_room, skipped=True))


@family.row_check(
    Check(
        "truncated", "warn", "rows that would be truncated",
        "{tokens:,} tokens; the last {cut:,} would be truncated, including the stop token.", DROP,
    )
)  # fmt: skip
def truncated(row: CheckInput) -> Evidence | None:
    tokens = None if isinstance(row.row, TextRow) else row.tokens  # a text is divided into windows
    if not tokens or tokens.error or not tokens.prompt < row.max_tokens < tokens.total:
        return None
    return Evidence(values={"tokens": tokens.total, "cut": tokens.total - row.max_tokens})


@family.row_check(
    Check("cut-off", "warn", "answers that an API cut off", "The API stopped this answer at its token limit ({value}).", DROP)
)
def cut_off(row: CheckInput) -> Evidence | None:
    """Find answers that a chat API stopped at the limit of tokens, if the row says so."""
    value = row.row.meta.get("finish_reason", row.row.meta.get("stop_reason"))
    return Evidence(values={"value": value}) if value in ("length", "max_tokens") else None


_OUTLIER = family.register(
    Check(
        "length-outlier", "note", "answers with an unusual length", "The answer has {length:n character}; the median is {median:,}.",
        DROP, "·", short="length",
    )
)  # fmt: skip


@family.corpus_check
def outliers(corpus: Corpus) -> Iterator[Finding]:
    """Find answers, and chosen answers of pairs, whose log length is outside the outer fences.

    This is a note, because short and long answers may be right.
    """
    answers = {rank: length for rank, length in enumerate(corpus.answers) if rank not in corpus.pairs}
    chosen = {rank: first for rank, (first, _) in corpus.pairs.items()}
    for lengths in (answers, chosen):
        if len(lengths) < _MIN_ROWS:
            continue
        low, median, high = length_bounds([*lengths.values()])
        for rank, length in lengths.items():
            if length < low or length > high:
                yield _OUTLIER.finding(corpus.indices[rank], values={"length": length, "median": round(median)})


def length_bounds(lengths: Sequence[int]) -> tuple[float, float, float]:
    """Return the shortest usual length, the median, and the longest usual length."""
    logs = np.log(np.maximum(np.asarray(lengths, np.float64), 1))
    first, median, third = np.percentile(logs, (25, 50, 75))
    reach = _FENCES * (third - first)
    low, high = min(first - reach, median - math.log(_RATIO)), max(third + reach, median + math.log(_RATIO))
    return math.exp(low), math.exp(median), math.exp(high)
