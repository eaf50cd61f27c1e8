"""Records that are no rows: which of the ways in which a record can be none."""

from __future__ import annotations

import re

from mlxtune.core.errors import DataError
from mlxtune.data.checks.finding import UNUSABLE, Check, Finding, enter
from mlxtune.data.rows import RowError

BAD = enter("bad-row", "block", "rows that cannot be read", UNUSABLE, "✗")
_KINDS: tuple[tuple[Check, re.Pattern[str]], ...] = (  # by what the formats say of them
    (enter("same-pair", "block", "pairs whose answers are the same", UNUSABLE, "✗"), re.compile(r"(?:output|rejected) are the same")),
    (
        enter("different-prompts", "block", "pairs with different prompts", UNUSABLE, "✗"),
        re.compile(r"share no (?:turn|beginning)|prompt is not what|part after"),
    ),
    (
        enter("no-answer", "block", "rows without a final answer", UNUSABLE, "✗"),
        re.compile(r"no assistant turn at the end|so it is no answer"),
    ),
    (
        enter("role-order", "block", "rows with turns in the wrong order", UNUSABLE, "✗"),
        re.compile(r"turns in a row|no user turn|so nothing is asked"),
    ),
    (
        enter("empty-target", "block", "rows with an empty answer", UNUSABLE, "✗"),
        re.compile(r"an assistant turn is empty|(?:completion|output|text|chosen|rejected)\w* must be (?:text|an answer) that is not empty"),
    ),
)  # fmt: skip


def refused(at: int, error: DataError) -> Finding:
    """The finding for a record that could not be read as a row."""
    why = error.why if isinstance(error, RowError) else error.message
    check = next((check for check, said in _KINDS if said.search(why)), BAD)
    return Finding(check.id, check.severity, (at,), f"{why[:1].upper()}{why[1:]} {error.mend}".strip())
