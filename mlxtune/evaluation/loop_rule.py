"""When an answer that repeats itself is ended before its limit: not where a reference or the schema allows the repetition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxtune.evaluation.answer_budget import longest_json
from mlxtune.evaluation.answers import is_loop
from mlxtune.evaluation.scorers.json_parser import BRACKETS, find_syntax_error
from mlxtune.models.thoughts import COPIES, LEAST, MAX_PERIOD, LoopRule

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

FACTOR = 2  # times the longest repetition in a reference answer


def loop_rule(references: Iterable[str | None], tokenizer: TokenizerWrapper, schema: Any = None) -> LoopRule:
    """Return the rule for answers to rows with these ``references``, which should satisfy ``schema`` if there is one."""
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in references if text]
    least = max(LEAST, FACTOR * longest_repetition(texts))
    return LoopRule(least) if schema is None else LoopRule(least, partial(schema_allows_repetition, longest=longest_json(schema)))


def longest_repetition(texts: Iterable[Sequence[int]]) -> int:
    """Return the maximum number of repeated tokens, as :class:`LoopDetector` counts them, of the loops in ``texts``; else 0."""
    tokens = np.array([token for number, text in enumerate(texts, 1) for token in (*text, -number)])
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(tokens) - 1) + 1):
        changes = np.flatnonzero(tokens[period:] != tokens[:-period])
        count = int(np.diff(changes, prepend=-1).max(initial=1)) - 1
        longest = max(longest, count if count >= max(LEAST, COPIES * period) else 0)
    return longest


def schema_allows_repetition(answer: str, longest: int | None) -> bool:
    """Return whether ``answer``, which repeats itself, may be the beginning of JSON that a schema allows.

    ``longest`` is the length of the longest such text. Without a limit, items may be repeated, but not the text within a string.
    """
    error = find_syntax_error(answer)
    if error is None or not error.at_end:
        return False
    if longest is not None:
        return len(answer) < longest
    *_, last = ["", *(match[0] for match in BRACKETS.finditer(answer))]
    return not is_loop(last)
