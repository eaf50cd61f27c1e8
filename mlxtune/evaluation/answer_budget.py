"""The token limit of answers, derived from the reference answers so that it does not favor any arm.

Under a grammar, an answer may have to be longer, because it ends only where the schema allows it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mlxtune.data.rows import Row, TextRow
from mlxtune.evaluation.schema_size import longest_json
from mlxtune.recipe import AUTO, EvaluationSection

FACTOR = 2  # times the longest reference answer
MINIMUM_EXTRA = 64  # tokens more than the longest reference answer, at least
WITHOUT_REFERENCE = 256  # tokens, if no row has a reference answer
GRAMMAR_FACTOR = 8  # times the limit of other answers, at most, for those under a grammar


def auto_limit(longest: int, room: int | None = None) -> int:
    """Return the limit for a longest reference answer of ``longest`` tokens, if ``room`` tokens are left in the model's context."""
    limit = max(FACTOR * longest, longest + MINIMUM_EXTRA) if longest else WITHOUT_REFERENCE
    return limit if room is None else max(1, min(limit, room))


def grammar_limit(limit: int, schema: Any, room: int | None = None) -> int:
    """Return the limit under a grammar of ``schema``: enough for its longest answer at a token per character, if it has a length."""
    needed = min(longest_json(schema) or 0, GRAMMAR_FACTOR * limit)
    return max(limit, needed if room is None else min(needed, room))


@dataclass(frozen=True)
class AnswerBudget:
    """The limit of an answer in tokens, reasoning not counted. The other values are set with ``evaluation.max_tokens = "auto"``."""

    max_tokens: int
    longest_reference: int | None = None  # in tokens
    room: int | None = None  # what the model's context leaves for an answer, if it is less than a limit
    grammar_tokens: int | None = None  # the limit under a grammar, if it is higher


def answer_budget(
    section: EvaluationSection, rows: Iterable[Row], count_tokens: Callable[[str], int], room: int | None = None, schema: Any = None
) -> AnswerBudget:
    """Return the budget for answers like the references of ``rows``, the training and validation rows, that satisfy ``schema``."""
    if section.max_tokens != AUTO:
        return AnswerBudget(section.max_tokens)
    references = {row.reference for row in rows if not isinstance(row, TextRow)}
    longest = max((count_tokens(text) for text in references if text), default=0)
    limit = auto_limit(longest, room)
    wide, widest = grammar_limit(limit, schema, room), grammar_limit(auto_limit(longest), schema)
    is_limited = limit < auto_limit(longest) or wide < widest
    return AnswerBudget(limit, longest, room if is_limited else None, wide if wide > limit else None)
