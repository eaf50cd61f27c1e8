"""Answers that cannot but fit a JSON Schema: at each step only the tokens that the schema's grammar can go on with are allowed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.core.text import one_line


class Grammar:
    """The grammar of ``schema`` over the tokens of ``tokenizer``, by llguidance.

    Raises ``InputError`` when llguidance is not installed or does not know a keyword of the schema, ``ModelError`` for a tokenizer
    that it cannot take.
    """

    def __init__(self, tokenizer: TokenizerWrapper, schema: Any) -> None:
        self._lib, self._tokens = _vocabulary(tokenizer)
        self._grammar = self._lib.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        if why := self._lib.LLMatcher.validate_grammar(self._grammar, self._tokens):
            raise InputError(
                f"The schema cannot be made a grammar: {one_line(why, 200)}", mend="Leave the grammar out, or simplify the schema."
            )

    def start(self, rows: int) -> Allowed:
        """What ``rows`` answers may begin with, and so on."""
        return Allowed([self._lib.LLMatcher(self._tokens, self._grammar) for _ in range(rows)])


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: TokenizerWrapper) -> tuple[Any, Any]:
    """llguidance, and what it knows of ``tokenizer``, which takes a second to make."""
    try:
        import llguidance
        import llguidance.hf
    except ImportError as error:
        raise InputError("Answers are held to a JSON Schema by llguidance.", mend="pip install 'mlxtune[grammar]'") from error
    try:
        return llguidance, llguidance.hf.from_tokenizer(tokenizer._tokenizer, eos_token=sorted(tokenizer.eos_token_ids))
    except ValueError as error:
        raise ModelError(f"This tokenizer cannot be held to a grammar: {error}", mend="Leave the grammar out.") from error


class Allowed:
    """Where each answer of a batch is in the grammar."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self._matchers = matchers

    def next(self, rows: Sequence[int], vocabulary: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Bool ``(rows, vocabulary)``: the tokens that each of ``rows`` may go on with; only a stop once it is complete."""
        masks = [np.frombuffer(self._matchers[row].compute_bitmask(), np.uint8) for row in rows]
        bits = np.unpackbits(np.stack(masks), axis=1, bitorder="little").astype(bool)
        missing = vocabulary - bits.shape[1]  # a model may have more rows of embeddings than its tokenizer has tokens
        return np.pad(bits, ((0, 0), (0, max(0, missing))))[:, :vocabulary]

    def take(self, row: int, token: int) -> None:
        """Say that ``row`` went on with ``token``. Raises ``MlxtuneError`` where the grammar lost its way."""
        matcher = self._matchers[row]
        if not matcher.consume_token(token):
            raise MlxtuneError(f"The grammar lost its way: {one_line(matcher.get_error(), 200)}")
