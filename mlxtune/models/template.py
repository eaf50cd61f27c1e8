"""Rows as tokens, with the tokens that train marked: every assistant turn, its stop sign included, and nothing else.

The mark is proved for each row, not assumed. What the model is asked at inference (the messages so far, with the generation
prompt) must be, token for token, how the trained sequence begins; only then do the tokens after it count as the answer. A
template for which that does not hold is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Message, Place, Row, Text


@dataclass(frozen=True)
class Encoded:
    """A row as tokens.

    ``tokens`` is int32 of shape ``(tokens,)``; ``trained`` is bool of the same shape and says which tokens are targets.
    ``full`` is the length before it was cut at the window.
    """

    id: str
    place: Place
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    trained: np.ndarray[Any, np.dtype[np.bool_]]
    full: int

    @property
    def truncated(self) -> bool:
        return self.full > len(self.tokens)


class ChatTemplate:
    """Renders with a model's own template. Nothing is cached but the set of stop tokens."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self.tokenizer = tokenizer
        self.stops: frozenset[int] = frozenset(tokenizer.eos_token_ids) | frozenset(tokenizer.all_special_ids)

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens a model is asked with: ``messages`` and the generation prompt. Raises ``TemplateError``."""
        return self._render(messages, tools, ask=True)

    def encode(self, row: Row, max_tokens: int) -> Encoded:
        """``row`` cut to ``max_tokens``, with its trained tokens marked.

        Raises ``TemplateError`` when the mark cannot be proved, ``DataError`` when nothing would be trained.
        """
        if isinstance(row, Conversation):
            tokens, trained = self._conversation(row)
        elif isinstance(row, Text):
            tokens, trained = self._text(row)
        else:
            raise DataError(
                f"{row.place}: a preference pair cannot be trained with sft.", mend="Use chat, completion or text rows."
            )
        kept = trained[:max_tokens]
        if not kept.any():
            raise DataError(
                f"{row.place}: the prompt fills the window of {max_tokens:,} tokens (the row has {len(tokens):,}), so nothing would be trained.",
                mend="Raise data.max_tokens, or shorten the prompt.",
            )
        return Encoded(row.id, row.place, tokens[:max_tokens], kept, len(tokens))

    def _text(self, row: Text) -> tuple[Any, Any]:
        tokens = self.tokenizer.encode(row.text)
        if tokens[-1] != self.tokenizer.eos_token_id:
            tokens = [*tokens, self.tokenizer.eos_token_id]
        trained = np.ones(len(tokens), bool)
        trained[0] = False
        return np.array(tokens, np.int32), trained

    def _conversation(self, row: Conversation) -> tuple[Any, Any]:
        whole = self._render(row.messages, row.tools, ask=False, place=row.place)
        trained = np.zeros(len(whole), bool)
        for index, message in enumerate(row.messages):
            if message.role != "assistant":
                continue
            asked = self._render(row.messages[:index], row.tools, ask=True, place=row.place)
            answered = self._render(row.messages[: index + 1], row.tools, ask=False, place=row.place)
            if whole[: len(asked)] != asked or whole[: len(answered)] != answered:
                raise TemplateError(
                    f"{row.place}: turn {index + 1} renders differently inside the conversation than when it is asked for, "
                    "so the trained tokens cannot be proved.",
                    mend="Keep one assistant turn a row, or use a model whose template does not rewrite earlier turns.",
                )
            stop = next((at for at in range(len(answered) - 1, len(asked) - 1, -1) if answered[at] in self.stops), None)
            if stop is None:
                raise TemplateError(
                    f"{row.place}: the template ends turn {index + 1} without a stop token, so the model would never learn to stop.",
                    mend="Use the instruct version of the model.",
                )
            answer = self.tokenizer.decode(whole[len(asked) : stop])
            if message.content.strip() not in answer:
                raise TemplateError(
                    f"{row.place}: the template changes the answer of turn {index + 1} to {one_line(answer, 60)!r}.",
                    mend="Use a model whose template keeps the text.",
                )
            trained[len(asked) : stop + 1] = True
        return np.array(whole, np.int32), trained

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, ask: bool, place: Place | None = None
    ) -> list[int]:
        if not self.tokenizer.has_chat_template:
            raise TemplateError("The model has no chat template.", mend="Use its instruct version, or text rows.")
        try:
            text = self.tokenizer.apply_chat_template(
                [message.as_dict() for message in messages], tools=list(tools) or None, add_generation_prompt=ask, tokenize=False
            )
        except Exception as error:  # templates are programs: jinja raises what they raise
            where = f"{place}: " if place else ""
            raise TemplateError(
                f"{where}the model's chat template refuses this conversation: {one_line(str(error), 120)}"
            ) from error
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all ``rows`` begin with; 0 for no rows."""
    if not rows:
        return 0
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    return next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
