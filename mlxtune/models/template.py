"""Rows as tokens, with the tokens that train marked: every assistant turn, its stop sign included, and nothing else.

The mark is proved for each row, not assumed. What the model is asked at inference (the messages so far, with the generation
prompt) must be, token for token, how the trained sequence begins; only then do the tokens after it count as the answer. A
template for which that does not hold is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import DataError, TemplateError, TooLongError
from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text, Unpaired


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


@dataclass(frozen=True)
class EncodedPair:
    """A preference pair as tokens: int32 ``(prompt,)``, ``(chosen,)`` and ``(rejected,)``, completions with their stop.

    ``uncut`` is how long the completions were before they were cut at the window.
    ``reference`` is the log-probability of chosen and rejected under the reference model, in nats, once it is known.
    ``label`` is that of an unpaired row: then ``chosen`` is its own completion and ``rejected`` one of another prompt.
    """

    id: str
    place: Place
    prompt: np.ndarray[Any, np.dtype[np.int32]]
    chosen: np.ndarray[Any, np.dtype[np.int32]]
    rejected: np.ndarray[Any, np.dtype[np.int32]]
    uncut: tuple[int, int]
    reference: tuple[float, float] | None = None
    label: bool | None = None

    @property
    def tokens(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """All that is seen: prompt, chosen, rejected."""
        return np.concatenate([self.prompt, self.chosen, self.rejected])

    @property
    def common(self) -> int:
        """How many tokens both completions begin with, of each all but the last."""
        most = min(len(self.chosen), len(self.rejected)) - 1
        differ = np.flatnonzero(self.chosen[:most] != self.rejected[:most])
        return int(differ[0]) if differ.size else most

    @property
    def trained(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of ``tokens`` are targets; of an unpaired row, only its own completion's."""
        places = np.arange(len(self.prompt) + len(self.chosen) + len(self.rejected))
        own = places < len(self.prompt) + len(self.chosen)
        return (places >= len(self.prompt)) & (own if self.label is not None else True)

    @property
    def full(self) -> int:
        """How many tokens all three have together, uncut."""
        return len(self.prompt) + sum(self.uncut)

    @property
    def means(self) -> tuple[float, float]:
        """``reference`` as the mean over the tokens of each completion; it must be known."""
        assert self.reference is not None
        chosen, rejected = self.reference
        return chosen / len(self.chosen), rejected / len(self.rejected)

    @property
    def truncated(self) -> bool:
        return (len(self.chosen), len(self.rejected)) != self.uncut


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

        Raises ``TemplateError`` when the mark cannot be proved, ``TooLongError`` when nothing would be trained.
        """
        if isinstance(row, Conversation):
            tokens, trained = self._conversation(row)
        elif isinstance(row, Text):
            tokens, trained = self._text(row)
        else:
            raise DataError(
                f"{row.place}: a row of preferences cannot be trained with sft.", mend="Use chat, completion or text rows."
            )
        kept = trained[:max_tokens]
        if not kept.any():
            raise TooLongError(
                f"{row.place}: the prompt fills the window of {max_tokens:,} tokens (the row has {len(tokens):,}), so nothing would be trained.",
                mend="Raise data.max_tokens, or shorten the prompt.",
            )
        return Encoded(row.id, row.place, tokens[:max_tokens], kept, len(tokens))

    def pair(self, row: Row, max_tokens: int) -> EncodedPair:
        """``row`` with both completions cut so that each fits ``max_tokens`` behind the prompt, which is never cut.

        Raises ``TemplateError`` when prompt and completions cannot be told apart for certain, ``DataError`` when there is nothing to
        prefer: a completion is empty, or both say the same but for spacing; ``TooLongError`` when the cut leaves nothing of one or no
        difference.
        """
        if not isinstance(row, Preference):
            raise DataError(
                f"{row.place}: only a preference pair can be trained with dpo.", mend="Use rows with chosen and rejected."
            )
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            if not answer.strip():
                raise DataError(f"{row.place}: {name} is empty.", mend="Write the answer, or remove the row.")
        if _bare(row.chosen) == _bare(row.rejected):
            raise DataError(f"{row.place}: chosen and rejected say the same.", mend="Remove the row.")
        prompt, chosen = self.completion((*row.prompt, Message("assistant", row.chosen)), row.tools, row.place)
        _, rejected = self.completion((*row.prompt, Message("assistant", row.rejected)), row.tools, row.place)
        room = max_tokens - len(prompt)
        if room < 1:
            raise TooLongError(
                f"{row.place}: the prompt of {len(prompt):,} tokens fills the window of {max_tokens:,}, so nothing is left of the answers.",
                mend="Raise data.max_tokens, or shorten the prompt.",
            )
        if chosen[:room] == rejected[:room]:
            raise TooLongError(
                f"{row.place}: chosen and rejected are the same up to the window of {max_tokens:,} tokens.",
                mend="Raise data.max_tokens, or remove the row.",
            )
        asked, better, worse = (np.array(tokens, np.int32) for tokens in (prompt, chosen[:room], rejected[:room]))
        return EncodedPair(row.id, row.place, asked, better, worse, (len(chosen), len(rejected)))

    def unpaired(self, row: Row, other: Row, max_tokens: int) -> EncodedPair:
        """``row`` with its completion, and behind the same prompt that of ``other``, both cut at ``max_tokens``.

        Raises as :meth:`pair` does, but that both may be the same.
        """
        if not isinstance(row, Unpaired) or not isinstance(other, Unpaired):
            raise DataError(
                f"{row.place}: only an unpaired row can be trained with kto.", mend="Use rows of prompt, completion and label."
            )
        prompt, own = self.completion((*row.prompt, Message("assistant", row.completion)), (), row.place)
        _, mismatched = self.completion((*row.prompt, Message("assistant", other.completion)), (), row.place)
        room = max_tokens - len(prompt)
        if room < 1:
            raise TooLongError(
                f"{row.place}: the prompt of {len(prompt):,} tokens fills the window of {max_tokens:,}, so nothing is left of the answer.",
                mend="Raise data.max_tokens, or shorten the prompt.",
            )
        asked, said, another = (np.array(tokens, np.int32) for tokens in (prompt, own[:room], mismatched[:room]))
        return EncodedPair(row.id, row.place, asked, said, another, (len(own), len(mismatched)), label=row.label)

    def completion(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], place: Place) -> tuple[list[int], list[int]]:
        """What a model is asked before the last turn of ``messages``, and that turn up to its stop, as tokens.

        Raises ``TemplateError`` when they cannot be told apart for certain.
        """
        tokens, start, end = self._answer(messages, tools, place)
        return tokens[:start], tokens[start:end]

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
            answered, start, end = self._answer(row.messages[: index + 1], row.tools, row.place)
            if whole[: len(answered)] != answered:
                raise _rewritten(row.place, index)
            trained[start:end] = True
        return np.array(whole, np.int32), trained

    def _answer(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], place: Place) -> tuple[list[int], int, int]:
        """``messages`` as tokens, where in them the last turn's answer begins, and where it ends behind its stop.

        Raises ``TemplateError`` unless they begin with what the model is asked, and the answer is there unchanged.
        """
        turn = len(messages)
        asked = self._render(messages[:-1], tools, ask=True, place=place)
        tokens = self._render(messages, tools, ask=False, place=place)
        if tokens[: len(asked)] != asked:
            raise _rewritten(place, turn - 1)
        stop = next((at for at in range(len(tokens) - 1, len(asked) - 1, -1) if tokens[at] in self.stops), None)
        if stop is None:
            raise TemplateError(
                f"{place}: the template ends turn {turn} without a stop token, so the model would never learn to stop.",
                mend="Use the instruct version of the model.",
            )
        answer = self.tokenizer.decode(tokens[len(asked) : stop])
        if messages[-1].content.strip() not in answer:
            raise TemplateError(
                f"{place}: the template changes the answer of turn {turn} to {one_line(answer, 60)!r}.",
                mend="Use a model whose template keeps the text.",
            )
        return tokens, len(asked), stop + 1

    def text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, ask: bool, place: Place | None = None) -> str:
        """``messages`` as the template renders them; with ``ask``, the generation prompt behind them. Raises ``TemplateError``."""
        if not self.tokenizer.has_chat_template:
            raise TemplateError("The model has no chat template.", mend="Use its instruct version, or text rows.")
        refused: Exception | None = None
        for turns in filter(None, (messages, _without_system(messages))):
            try:
                text: str = self.tokenizer.apply_chat_template(
                    [message.as_dict() for message in turns], tools=list(tools) or None, add_generation_prompt=ask, tokenize=False
                )
            except Exception as error:  # templates are programs: jinja raises what they raise
                refused = refused or error
                continue
            return text
        where = f"{place}: " if place else ""
        raise TemplateError(
            f"{where}the model's chat template refuses this conversation: {one_line(str(refused), 120)}"
        ) from refused

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, ask: bool, place: Place | None = None
    ) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(self.text(messages, tools, ask=ask, place=place), add_special_tokens=False)
        return tokens


def _rewritten(place: Place, index: int) -> TemplateError:
    return TemplateError(
        f"{place}: turn {index + 1} renders differently inside the conversation than when it is asked for, "
        "so the trained tokens cannot be proved.",
        mend="Keep one assistant turn a row, or use a model whose template does not rewrite earlier turns.",
    )


def _without_system(messages: Sequence[Message]) -> Sequence[Message]:
    """``messages`` with their system turn put before the first question; nothing where there is no such pair.

    For templates that refuse a system turn, as Gemma 2's and older ones of Mistral do; it is what their makers advise.
    """
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return ()
    return (replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:])


def _bare(text: str) -> list[str]:
    """``text`` without what only the eye of a machine sees: spacing within lines, empty lines, how characters are composed."""
    return [" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines() if line.strip()]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all ``rows`` begin with; 0 for no rows."""
    if not rows:
        return 0
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    return next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
