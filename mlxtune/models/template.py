"""Chat templates: render rows to tokens and mark the trained tokens.

Only assistant turns are trained on, each with its stop token. The marks are verified for every row: the prompt that the model
gets at inference (the messages so far plus the generation prompt) must be a prefix of the training sequence, token for token,
and only the tokens after it count as the answer. Templates that break this are rejected.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from mlxtune.core.errors import DataError, TemplateError, TooLongError
from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, Text, Unpaired
from mlxtune.models.encoded import Encoded, EncodedPair, TokenMask, Tokens
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.stops import end_token
from mlxtune.models.thinking import ThinkingControls, freeze_date, prints_date, thinking_controls
from mlxtune.models.thoughts import MARKERS
from mlxtune.recipe import Recipe, read_template
from mlxtune.recipe.schema import Thinking


@dataclass(frozen=True)
class TemplateSettings:
    """How conversations are rendered, besides the model's own template.

    ``date`` is the ISO date that templates print as today's, or empty for the current day. ``source`` is a Jinja template that
    replaces the model's own, or empty.
    """

    thinking: Thinking = "off"
    date: str = ""
    source: str = ""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> TemplateSettings:
        """Return the settings of ``recipe``. Raises ``RecipeError`` if its template file cannot be read."""
        return cls(recipe.model.thinking, recipe.data.date, read_template(recipe))


def load_template(source: ModelFolder, settings: TemplateSettings, tokenizer: TokenizerWrapper | None = None) -> ChatTemplate:
    """Return the chat template of the model in ``source``, with ``tokenizer`` if it is already loaded."""
    tokenizer = tokenizer or load_tokenizer(source.folder, eos_token_ids=source.eos_token_ids)
    return ChatTemplate(tokenizer, settings, source.name)


class ChatTemplate:
    """Renders and encodes rows with the model's own chat template, or the one in ``settings``. ``name`` is the model's."""

    def __init__(
        self, tokenizer: TokenizerWrapper, settings: TemplateSettings = TemplateSettings(), name: str = "the model"
    ) -> None:
        self.tokenizer, self.settings, self.name = tokenizer, settings, name

    @cached_property
    def source(self) -> str:
        """The Jinja source of the template; empty if there is none, or if the tokenizer renders conversations in Python."""
        own = self.tokenizer._tokenizer.chat_template
        own = own.get("default", "") if isinstance(own, dict) else own or ""
        return self.settings.source or str(own)

    @cached_property
    def thinking(self) -> ThinkingControls:
        """How the template controls reasoning."""
        return thinking_controls(self.source) if self.source else ThinkingControls()

    def thinking_limit(self, tokens: int) -> int:
        """Return ``tokens``, the limit for thoughts, or 0 if neither the template nor the vocabulary knows them."""
        return tokens if self.thinking.reasons or self.tokenizer.has_thinking else 0

    @cached_property
    def thought_starts(self) -> frozenset[int]:
        """The control tokens with which a thought, or an answer behind it, may begin; empty if thinking is switched off."""
        if self.settings.thinking == "off" and self.thinking.switch:
            return frozenset()
        control = self.tokenizer.added_tokens_decoder
        firsts = (self.tokenizer.encode(marker, add_special_tokens=False)[0] for marker in MARKERS)
        return frozenset(token for token in firsts if token in control)

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What the template gets besides the conversation: its variables, and its source if it differs from the model's own."""
        variables = self.thinking.variables(self.settings.thinking)
        if self.settings.date and prints_date(self.source):
            return variables | {"chat_template": freeze_date(self.source, self.settings.date)}
        return variables | ({"chat_template": self.settings.source} if self.settings.source else {})

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: the model's eos tokens, and the one with which the template ends an assistant turn."""
        end = self._end_token
        return frozenset(self.tokenizer.eos_token_ids) | (frozenset() if end is None else {end})

    @cached_property
    def _end_token(self) -> int | None:
        return end_token(self.tokenizer, lambda messages: self.render(messages, (), generation_prompt=False))

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Return the inference prompt: ``messages`` plus the generation prompt. Raises ``TemplateError``."""
        return self._tokens(messages, tools, generation_prompt=True)

    def encode(self, row: Row, max_tokens: int) -> Encoded:
        """Encode ``row``, truncated to ``max_tokens``, with its trained tokens marked.

        Raises ``TemplateError`` when the marks cannot be verified, and ``TooLongError`` when no trained token is left.
        """
        if isinstance(row, Conversation):
            tokens, trained = self._conversation(row)
        elif isinstance(row, Text):
            tokens, trained = self._text(row)
        else:
            raise DataError(f"{row.location}: SFT cannot train on a preference row.", hint="Use chat, completion or text rows.")
        in_window = trained[:max_tokens]
        if not in_window.any():
            raise TooLongError(
                f"{row.location}: the prompt fills the window of {max_tokens:,} tokens (the row has {len(tokens):,}), "
                "so it has no trained tokens.",
                hint="Raise data.max_tokens, or shorten the prompt.",
            )
        return Encoded(row.id, row.location, tokens[:max_tokens], in_window, len(tokens))

    def encode_pair(self, row: Row, max_tokens: int) -> EncodedPair:
        """Encode a preference pair. Each completion is truncated to fit in ``max_tokens`` together with the prompt, which is kept whole.

        Raises ``TemplateError`` when prompt and completions cannot be separated, ``DataError`` when a completion is empty or both
        are identical, and ``TooLongError`` when truncation leaves no completion or no difference.
        """
        if not isinstance(row, Preference):
            raise DataError(f"{row.location}: DPO trains on preference pairs only.", hint="Use rows with chosen and rejected.")
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            if not answer.strip():
                raise DataError(f"{row.location}: {name} is empty.", hint="Write the answer, or remove the row.")
        if _normalized(row.chosen) == _normalized(row.rejected):
            raise DataError(f"{row.location}: chosen and rejected are identical.", hint="Remove the row.")
        pair = self._pair(row, (row.chosen, row.rejected), row.tools, max_tokens)
        if pair.chosen.tolist() == pair.rejected.tolist():
            raise TooLongError(
                f"{row.location}: chosen and rejected are identical within the window of {max_tokens:,} tokens.",
                hint="Raise data.max_tokens, or remove the row.",
            )
        return pair

    def encode_unpaired(self, row: Row, other: Row, max_tokens: int) -> EncodedPair:
        """Encode ``row`` with its own completion as ``chosen`` and the completion of ``other`` as ``rejected``.

        Raises the same errors as :meth:`encode_pair`, except that both completions may be identical.
        """
        if not isinstance(row, Unpaired) or not isinstance(other, Unpaired):
            raise DataError(
                f"{row.location}: KTO trains on unpaired rows only.", hint="Use rows with prompt, completion and label."
            )
        return replace(self._pair(row, (row.completion, other.completion), (), max_tokens), label=row.label)

    def _pair(
        self, row: Preference | Unpaired, answers: tuple[str, str], tools: Sequence[dict[str, Any]], max_tokens: int
    ) -> EncodedPair:
        (prompt, first), (_, second) = (
            self.split_completion((*row.prompt, Message("assistant", answer)), tools, row.location) for answer in answers
        )
        room = max_tokens - len(prompt)
        if room < 1:
            raise TooLongError(
                f"{row.location}: the prompt of {len(prompt):,} tokens fills the window of {max_tokens:,}, "
                "so no answer token would be trained.",
                hint="Raise data.max_tokens, or shorten the prompt.",
            )
        tokens, chosen, rejected = (np.array(part, np.int32) for part in (prompt, first[:room], second[:room]))
        return EncodedPair(row.id, row.location, tokens, chosen, rejected, (len(first), len(second)))

    def split_completion(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], location: Location
    ) -> tuple[list[int], list[int]]:
        """Return the prompt tokens and the tokens of the last turn of ``messages`` up to its stop token.

        Raises ``TemplateError`` when they cannot be separated.
        """
        tokens, start, end = self._answer_span(messages, tools, location)
        return tokens[:start], tokens[start:end]

    def _text(self, row: Text) -> tuple[Tokens, TokenMask]:
        tokens = self.tokenizer.encode(row.text)
        if tokens[-1] != self.tokenizer.eos_token_id:
            tokens = [*tokens, self.tokenizer.eos_token_id]
        trained = np.ones(len(tokens), bool)
        trained[0] = False
        return np.array(tokens, np.int32), trained

    def _conversation(self, row: Conversation) -> tuple[Tokens, TokenMask]:
        whole = self._tokens(row.messages, row.tools, generation_prompt=False, location=row.location)
        trained = np.zeros(len(whole), bool)
        for index, message in enumerate(row.messages):
            if message.role != "assistant":
                continue
            tokens, start, end = self._answer_span(row.messages[: index + 1], row.tools, row.location)
            if whole[:end] != tokens[:end]:
                raise _rewritten_turn(row.location, index)
            trained[start:end] = True
        return np.array(whole, np.int32), trained

    def _answer_span(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], location: Location
    ) -> tuple[list[int], int, int]:
        """Return the tokens of ``messages``, and where the last turn's answer starts and ends (after its stop token).

        Raises ``TemplateError`` unless the tokens start with the inference prompt and contain the answer unchanged.
        """
        turn = len(messages)
        prompt = self._tokens(messages[:-1], tools, generation_prompt=True, location=location)
        tokens = self._tokens(messages, tools, generation_prompt=False, location=location)
        if tokens[: len(prompt)] != prompt:
            raise _rewritten_turn(location, turn - 1)
        stop = next((i for i in range(len(prompt), len(tokens)) if tokens[i] in self.stop_tokens), None)
        if stop is None:
            raise TemplateError(
                f"{location}: the chat template of {self.name} ends turn {turn} without a stop token, so the model would not learn "
                "to stop.",
                hint="Copy the template to a file, write the stop token after assistant turns, and name it in model.template.",
            )
        answer = self.tokenizer.decode(tokens[len(prompt) : stop])
        if messages[-1].content.strip() not in answer:
            raise TemplateError(
                f"{location}: the template changes the answer in turn {turn} to {one_line(answer, 60)!r}.",
                hint="Use a model whose template leaves answers unchanged.",
            )
        return tokens, len(prompt), stop + 1

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        generation_prompt: bool,
        location: Location | None = None,
    ) -> str:
        """Render ``messages`` to text, with the generation prompt appended if requested. Raises ``TemplateError``."""
        if not self.tokenizer.has_chat_template and not self.settings.source:
            raise TemplateError("The model has no chat template.", hint="Use its instruct version, or text rows.")
        first_error: Exception | None = None
        for turns in filter(None, (messages, _merge_system_turn(messages))):
            try:
                text: str = self.tokenizer.apply_chat_template(
                    [message.as_dict() for message in turns],
                    tools=list(tools) or None,
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                    **self._variables,
                )
            except Exception as error:  # a template is a program and may raise anything
                first_error = first_error or error
                continue
            return text
        where = f"{location}: " if location else ""
        raise TemplateError(
            f"{where}the model's chat template rejects this conversation: {one_line(str(first_error), 120)}"
        ) from first_error

    def _tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        generation_prompt: bool,
        location: Location | None = None,
    ) -> list[int]:
        text = self.render(messages, tools, generation_prompt=generation_prompt, location=location)
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens


def _rewritten_turn(location: Location, index: int) -> TemplateError:
    return TemplateError(
        f"{location}: turn {index + 1} renders differently inside the conversation than as an answer, "
        "so its trained tokens cannot be verified.",
        hint="Use one assistant turn per row, or a model whose template does not rewrite earlier turns.",
    )


def _merge_system_turn(messages: Sequence[Message]) -> Sequence[Message]:
    """Return ``messages`` with the system turn merged into the first user turn, or an empty sequence if there is no such pair.

    This is for templates that reject a system turn (Gemma 2, older Mistral models); their authors recommend it.
    """
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return ()
    return (replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:])


def _normalized(text: str) -> list[str]:
    """Return the lines of ``text`` without differences in whitespace, empty lines and Unicode composition."""
    return [" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines() if line.strip()]
