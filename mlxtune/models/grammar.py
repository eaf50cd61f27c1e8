"""Constrain answers to a JSON Schema: at each step, only tokens that the schema's grammar allows can be chosen."""

import json
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.core.text import one_line
from mlxtune.models.thoughts import ThoughtSplitter

_TOO_COMPLEX = re.compile(r"(lexer|parser) error", re.IGNORECASE)  # how llguidance's messages about its limits begin


class Grammar:
    """The grammar of a JSON Schema over a tokenizer's vocabulary, built by llguidance, or the grammar ``lark`` in its syntax. ``stops``
    are the tokens that end an answer.

    Raises ``InputError`` if llguidance is not installed or does not support a keyword in the schema, and ``ModelError`` if it
    does not support the tokenizer.
    """

    def __init__(self, tokenizer: TokenizerWrapper, schema: Any, stops: frozenset[int], lark: str = "") -> None:
        self._llguidance, self._vocabulary = _vocabulary(tokenizer, stops)
        matcher = self._llguidance.LLMatcher
        self._grammar = lark or matcher.grammar_from_json_schema(json.dumps(schema))
        if reason := matcher.validate_grammar(self._grammar, self._vocabulary):
            hint = "Generate without a grammar, or simplify the schema."
            raise InputError(f"The schema cannot be converted to a grammar: {one_line(reason, 200)}", hint=hint)

    def matcher(self) -> Any:
        """Return llguidance's matcher of one answer."""
        return self._llguidance.LLMatcher(self._vocabulary, self._grammar)


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: TokenizerWrapper, stops: frozenset[int]) -> tuple[Any, Any]:
    """Return the llguidance module and its view of the tokenizer, which takes a second to build."""
    try:
        import llguidance
        import llguidance.hf
    except ImportError as error:
        raise InputError("Constraining answers requires llguidance.", hint="Run: pip install 'mlxtune[grammar]'") from error
    try:
        return llguidance, llguidance.hf.from_tokenizer(tokenizer._tokenizer, eos_token=sorted(stops))
    except ValueError as error:
        raise ModelError(f"llguidance does not support this tokenizer: {error}", hint="Generate without a grammar.") from error


def allowed_tokens(
    matcher: Any, splitter: ThoughtSplitter, thought_starts: Collection[int], vocab_size: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which next tokens the ``matcher`` of an answer allows, as bool ``(vocab_size,)``: only stop tokens once it is complete.

    All are allowed without a matcher and inside a thought, and before the answer, also those of ``thought_starts``.
    """
    if matcher is None or splitter.unconstrained:
        return np.ones(vocab_size, bool)
    bitmask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    allowed = np.unpackbits(bitmask, count=vocab_size, bitorder="little").view(bool)  # 0 for embeddings that are no tokens
    if not splitter.answering:
        allowed[list(thought_starts)] = True
    return allowed


def advance(matcher: Any, token: int) -> None:
    """Append ``token`` to the answer of ``matcher``.

    Raises ``InputError`` if the schema is too complex for llguidance's limits, and ``MlxtuneError`` if the grammar rejects it.
    """
    if not matcher.consume_token(token):
        reason = one_line(matcher.get_error(), 200)
        if _TOO_COMPLEX.match(reason):
            raise InputError(f"The schema is too complex to constrain an answer: {reason}", hint="Simplify the schema.")
        raise MlxtuneError(f"The grammar rejected a token: {reason}")
