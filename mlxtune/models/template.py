"""Chat templates: render rows to tokens and mark the trained tokens.

Only assistant turns are trained on, each with its stop token. The marks are verified for every row: the prompt that the model
gets at inference (the messages so far plus the generation prompt) must be a prefix of the training sequence, token for token,
only the tokens after it count as the answer, and everything that the row says must be in the rendered text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

from mlxtune.core.errors import DataError, TemplateError, TooLongError
from mlxtune.core.text import one_line
from mlxtune.data import rows as data_rows
from mlxtune.data.readers.formats import BREAK
from mlxtune.data.rows import REASONING, Conversation, Location, Message, Preference, PromptRow, Row, TextRow, Unpaired
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models import answer_span
from mlxtune.models import dialect as dialects
from mlxtune.models.answer_span import AnswerSpan
from mlxtune.models.control_tokens import ControlTokens
from mlxtune.models.dialect import Tools
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.models.portable import message_converter, probes, with_variables
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.thinking import ThinkingControls, freeze_date, prints_date, thinking_controls
from mlxtune.models.thoughts import MARKERS
from mlxtune.models.tool_calls import CallReader
from mlxtune.recipe import Recipe, read_template
from mlxtune.recipe.schema import Thinking, Turns

# The shipped templates with tools, and the control tokens of the templates that they can replace.
_SHIPPED_TEMPLATES = {
    "chatml-tools": ("<|im_start|>", "<|im_end|>"), "phi-tools": ("<|assistant|>", "<|end|>"),
    "gemma-tools": ("<start_of_turn>", "<end_of_turn>"),
}  # fmt: skip
_ENDLESS = "without a stop token, so the model would not learn to stop"
_ENDLESS_HINT = "Copy the template to a file, write the stop token after assistant turns, and name the file in model.template."
_REASONING_HINT = 'Set model.thinking to "off" to leave reasoning out, or name a template in model.template that renders it.'


@dataclass(frozen=True)
class TemplateSettings:
    """How conversations are rendered, besides the model's own template."""

    thinking: Thinking = "off"
    date: str = ""  # ISO date that templates print as today's; empty for the current day
    source: str = ""  # a Jinja template that replaces the model's own, or empty
    turns: Turns = "auto"  # the assistant turns that are trained, and how; see DataSection
    effort: str = ""  # an OpenAI reasoning effort
    variables: tuple[tuple[str, Any], ...] = ()  # names and values of further variables of the template, which take precedence

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> TemplateSettings:
        """Return the settings of ``recipe``. Raises ``RecipeError`` if its template file cannot be read."""
        return cls(recipe.model.thinking, recipe.data.date, read_template(recipe), recipe.data.turns)


def load_template(source: ModelFolder, settings: TemplateSettings, tokenizer: TokenizerWrapper | None = None) -> ChatTemplate:
    """Return the chat template of the model in ``source``, with ``tokenizer`` if it is already loaded."""
    tokenizer = tokenizer or load_tokenizer(source.folder, eos_token_ids=source.eos_token_ids)
    return ChatTemplate(tokenizer, settings, source.name.rpartition("/")[2])


class ChatTemplate:
    """Renders and encodes rows with the model's own chat template, or the one in ``settings``. ``name`` is the model's."""

    def __init__(
        self, tokenizer: TokenizerWrapper, settings: TemplateSettings = TemplateSettings(), name: str = "the model"
    ) -> None:
        self.tokenizer, self.settings, self.name = tokenizer, settings, name

    @cached_property
    def source(self) -> str:
        """The Jinja source of the template; empty if there is none, or if the tokenizer renders conversations in Python."""
        return self.settings.source or self._own_source

    @property
    def _own_source(self) -> str:
        own = self.tokenizer._tokenizer.chat_template or ""
        if not isinstance(own, dict):
            return str(own)
        default, calling = (own.get(name, "").removesuffix("\n") for name in ("default", "tool_use"))
        return f"{{% if tools %}}{calling}{{% else %}}{default}{{% endif %}}" if calling else default  # as transformers chooses

    @cached_property
    def frozen_source(self) -> str:
        """The Jinja source that renders plain messages as in training, whatever a program passes besides them; empty if there is none."""
        thinking = self.settings.thinking
        variables = self.thinking.history_variables(thinking) | self._variables
        source = str(variables.pop("chat_template", self.source))
        if not source:
            return ""
        if self.tokenizer.bos_token is None:  # llama.cpp would take its own default
            variables["bos_token"] = ""
        return message_converter(self.dialect, self.thinking, thinking) + with_variables(source, variables)

    def rendered_prompts(self, rows: Iterable[PromptRow] = ()) -> list[tuple[PromptRow, list[int]]]:
        """Return the probes and ``rows`` that can be rendered and trained, with the tokens of their prompts."""
        rendered: list[tuple[PromptRow, list[int]]] = []
        for row in (*probes(self.dialect, self.settings.thinking), *rows):
            with suppress(TemplateError):
                if isinstance(row, Conversation):
                    self.answer(row.messages, row.tools, row.location)
                rendered.append((row, self.prompt(row.prompt, row.tools)))
        return rendered

    @cached_property
    def added_bos(self) -> str:
        """The text of the token that the tokenizer adds at the start of every text, as programs that load GGUF files do."""
        tokens = self.tokenizer.encode("")
        return str(self.tokenizer.decode(tokens[:1])) if tokens[:1] == [self.tokenizer.bos_token_id] else ""

    @cached_property
    def thinking(self) -> ThinkingControls:
        return thinking_controls(self.source) if self.source else ThinkingControls()

    def thinking_limit(self, tokens: int) -> int:
        """Return ``tokens``, the limit for thoughts, or 0 if neither the template nor the vocabulary supports thoughts."""
        return tokens if self.thinking.reasons or self.tokenizer.has_thinking else 0

    @cached_property
    def thought_starts(self) -> frozenset[int]:
        """The control tokens with which a thought, or the answer after it, may begin; empty if thinking is switched off."""
        switch, word = self.thinking.switch, self.thinking.word("off")
        if (switch and self._variables.get(switch) in (False, 0)) or (word and self.settings.thinking == "off"):
            return frozenset()
        control = self.tokenizer.added_tokens_decoder
        firsts = (self.tokenizer.encode(marker, add_special_tokens=False)[0] for marker in MARKERS)
        return frozenset(token for token in firsts if token in control)

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """The template's inputs besides the conversation: its variables, and its source if it differs from the model's own."""
        settings = self.settings
        controls, effort = self.thinking, settings.effort
        thinking = controls.effort_variables(effort) if effort else controls.variables(settings.thinking)
        variables = thinking | dict(settings.variables)
        if self.settings.date and prints_date(self.source):
            return variables | {"chat_template": freeze_date(self.source, self.settings.date)}
        return variables | ({"chat_template": self.settings.source} if self.settings.source else {})

    @cached_property
    def dialect(self) -> dialects.Dialect:
        return dialects.find_dialect(self._apply, thinking=self.settings.thinking != "off", inline="<think>" in self.source)

    @cached_property
    def control(self) -> ControlTokens:
        """The control tokens, which are encoded as text where a message contains them."""
        return ControlTokens(self.tokenizer, self.source)

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: the model's eos tokens, and those with which the template ends an answer or a call."""
        return frozenset(self.tokenizer.eos_token_ids) | (self._end_tokens or frozenset())

    @cached_property
    def _end_tokens(self) -> frozenset[int] | None:
        return dialects.end_tokens(self.tokenizer, self.render)

    @cached_property
    def _closing(self) -> frozenset[int]:
        return dialects.closing_tokens(self.tokenizer, self.render)

    @cached_property
    def _stops(self) -> dict[int, str]:
        added = self.tokenizer.added_tokens_decoder
        return {id: added[id].content if id in added else self.tokenizer.decode([id]) for id in self.stop_tokens}

    @cached_property
    def calls(self) -> CallReader:
        return CallReader(self.tokenizer, self.source)

    def check_trainable(self) -> None:
        """Raise ``TemplateError`` if there is no template, or if it has no token that ends an answer, like GLM-4's."""
        self.render([Message("user", "Hi")], generation_prompt=True)
        if self._end_tokens == frozenset():
            raise TemplateError(f"The chat template of {self.name} ends answers {_ENDLESS}.", hint=self._endless_hint)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens in ``text``, without the tokens that the template adds."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Return the inference prompt: ``messages`` plus the generation prompt. Raises ``TemplateError``."""
        return self.control.encode(self._rendered(messages, tools, generation_prompt=True))

    def question(self, turns: Sequence[Mapping[str, str]], tools: Tools = ()) -> list[int]:
        """Do the same with chat ``turns`` of any text. If the template has no system turn, its text is put before the next turn's."""
        # Tokenizers need valid UTF-8, so lone surrogates become question marks.
        messages = [Message(turn["role"], turn["content"].encode("utf-8", "replace").decode()) for turn in turns]
        try:
            return self.prompt(messages, tools)
        except TemplateError:
            system, *rest = messages
            if not system.is_system or not rest:
                raise
            return self.prompt([Message(rest[0].role, f"{system.content}\n\n{rest[0].content}"), *rest[1:]], tools)

    def encode(self, row: Row, max_tokens: int) -> list[Encoded]:
        """Encode ``row``, truncated to ``max_tokens``, with its trained tokens marked.

        A conversation is one row if its trained turns can be verified together; otherwise each of them becomes a separate row. A text that is
        longer than ``max_tokens`` is divided into windows that overlap by an eighth; each token is trained once. Raises
        ``TemplateError`` when the marks cannot be verified, and ``TooLongError`` when no trained token is left.
        """
        if isinstance(row, Conversation):
            encoded = self._conversation(row)
        elif isinstance(row, TextRow):
            encoded = self._text(row, max_tokens)
        elif isinstance(row, Unpaired):
            hint = 'Set method.kind to "kto", or data.format to "chat" or "completion".'
            raise DataError(f"{row.location}: SFT would also learn the answers that are labeled bad.", hint=hint)
        else:
            raise DataError(f"{row.location}: SFT cannot train on a pair.", hint='Set method.kind to "dpo".')
        inside = [one for one in encoded if one.trained[:max_tokens].any()]
        if not inside:
            raise _prompt_fills_window(row.location, max_tokens)
        cut = {TemplateNote.CUT} if len(inside) < len(encoded) else set()
        short = slice(max_tokens)
        return [replace(one, tokens=one.tokens[short], trained=one.trained[short], notes=one.notes | cut) for one in inside]

    def encode_pair(self, row: Row, max_tokens: int) -> EncodedPair:
        """Encode a preference pair. Each completion is truncated to fit in ``max_tokens`` together with the prompt, which is kept whole.

        Raises ``TemplateError`` when prompt and completions cannot be separated, ``DataError`` when a completion is empty or both
        are identical, and ``TooLongError`` when truncation leaves no completion or no difference.
        """
        if not isinstance(row, Preference):
            raise DataError(f"{row.location}: DPO trains on preference pairs only.", hint="Use rows with chosen and rejected.")
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            if not data_rows.assistant_message(answer).content.strip():
                raise DataError(f"{row.location}: {name} is empty.", hint="Write the answer, or remove the row.")
        if _normalized(row.chosen) == _normalized(row.rejected):
            raise DataError(f"{row.location}: chosen and rejected are identical.", hint="Remove the row.")
        pair = self._pair(row, (row.chosen, row.rejected), max_tokens)
        if pair.chosen.tolist() == pair.rejected.tolist():
            if TemplateNote.REASONING in pair.notes:
                problem = "chosen and rejected are identical without their reasoning"
                raise DataError(f"{row.location}: {problem}.", hint='Set model.thinking to "on", or remove the row.')
            problem = f"chosen and rejected are identical within {max_tokens:,} tokens"
            raise TooLongError(f"{row.location}: {problem}.", hint="Raise data.max_tokens, or remove the row.")
        return pair

    def can_compare(self, pair: Preference, max_tokens: int) -> bool:
        """Return whether a held-out pair's likelihoods can be compared. Raises the other errors of :meth:`encode_pair`."""
        with suppress(TooLongError):
            self.encode_pair(pair, max_tokens)
            return True
        return False

    def encode_unpaired(self, row: Row, other: Row, max_tokens: int) -> EncodedPair:
        """Encode ``row`` with the completion of ``other``, perhaps the same, as ``rejected``. Raises as :meth:`encode_pair`."""
        if not isinstance(row, Unpaired) or not isinstance(other, Unpaired):
            raise DataError(f"{row.location}: KTO trains on unpaired rows only.", hint="Use rows with prompt, completion, label.")
        return replace(self._pair(row, (row.completion, other.completion), max_tokens), label=row.label)

    def _pair(self, row: Preference | Unpaired, texts: tuple[str, str], max_tokens: int) -> EncodedPair:
        conversations = [(*row.prompt, data_rows.assistant_message(text)) for text in texts]
        first, second = (self.answer(messages, row.tools, row.location) for messages in conversations)
        room = max_tokens - first.start
        if room < 1:
            raise _prompt_fills_window(row.location, max_tokens)
        answers = zip(conversations, (first, second), strict=True)
        notes = frozenset().union(*(self._notes(messages, row.tools, [span]) for messages, span in answers))
        chosen, rejected = (one.tokens[one.start : one.end] for one in (first, second))
        prompt, better, worse = (np.array(part, np.int32) for part in (first.tokens[: first.start], chosen[:room], rejected[:room]))
        return EncodedPair(row.id, row.location, prompt, better, worse, (len(chosen), len(rejected)), notes=notes)

    def _text(self, row: TextRow, max_tokens: int) -> list[Encoded]:
        tokens = self.tokenizer.encode(row.text)
        if tokens[:2] == [self.tokenizer.bos_token_id] * 2:  # the text begins with the token that the tokenizer adds
            tokens = tokens[1:]
        if tokens[-1] != self.tokenizer.eos_token_id:
            tokens = [*tokens, self.tokenizer.eos_token_id]
        overlap = max(max_tokens // 8, 1)
        starts = range(0, max(len(tokens) - overlap, 1), max(max_tokens - overlap, 1))
        notes = frozenset({TemplateNote.WINDOWS} if len(starts) > 1 else ())
        windows = []
        for number, start in enumerate(starts):
            part = np.array(tokens[start : start + max_tokens], np.int32)
            trained = np.arange(len(part)) >= (overlap if start else 1)
            windows.append(Encoded(row.id, row.location, part, trained, len(part), turn=number, notes=notes))
        return windows

    def _conversation(self, row: Conversation) -> list[Encoded]:
        answers, separate = self.answers(row)
        notes = self._notes(row.messages, row.tools, list(answers.values()))
        if not separate:
            *_, last = answers.values()
            return [_encoded(row, last.tokens, answers.values(), notes=notes)]
        notes |= {TemplateNote.TURNS}
        return [_encoded(row, one.tokens, [one], turn=turn, notes=notes) for turn, one in answers.items()]

    def answers(self, row: Conversation) -> tuple[dict[int, AnswerSpan], bool]:
        """Return the trained answers of ``row`` by the number of their turn, and whether each becomes a separate row.

        Otherwise the last answer's tokens begin with those of each earlier one, so that all are trained in one row. Raises
        ``TemplateError`` when an answer cannot be verified.
        """
        turns = data_rows.trained_turns(row, self.settings.turns)
        answers = {turn: self.answer(row.messages[:turn], row.tools, row.location) for turn in turns}
        if len(turns) == 1 or self.settings.turns == "each":
            return answers, len(turns) > 1
        whole = answers[turns[-1]].tokens
        rewritten = next((turn for turn, one in answers.items() if whole[: one.end] != one.tokens[: one.end]), None)
        if rewritten and self.settings.turns == "all":
            problem = f"turn {rewritten} renders differently inside the conversation than as an answer."
            raise TemplateError(problem, location=row.location, hint='Set data.turns to "auto".')
        return answers, rewritten is not None

    def answer(self, messages: Sequence[Message], tools: Tools, location: Location) -> AnswerSpan:
        """Return the tokens of ``messages``, and which of them are the answer in the last turn.

        Raises ``TemplateError`` unless the tokens start with the inference prompt and contain everything that the messages say.
        """
        number, message = len(messages), messages[-1]
        if number == 1:
            problem = "the conversation begins with the assistant, so this turn has no prompt."
            raise TemplateError(problem, location=location, hint='Set the "weight" of the turn to 0, or remove it.')
        self._check_tools(messages, tools, location)
        self._check_reasoning(message, number, location)
        prompt = self._rendered(messages[:-1], tools, generation_prompt=True, location=location)
        text = self._rendered(messages, tools, generation_prompt=False, location=location)
        try:
            span = answer_span.locate_answer(prompt, text, self.dialect, self.control, self._stops, self._closing)
        except answer_span.OpenThoughtError:
            hint = "The template cannot turn thinking off; name a template in model.template that does not open a thinking block."
            if self.settings.thinking != "off" and (self.thinking.switch or self.thinking.words[0]):
                hint = 'Set model.thinking to "off", or add the reasoning as reasoning_content.'
            problem = f"the generation prompt of turn {number} opens a thinking block, but the turn has no reasoning."
            raise TemplateError(problem, location=location, hint=self._switch_hint(messages) or hint) from None
        except answer_span.RewrittenAnswerError:
            problem = f"the chat template of {self.name} renders the start of turn {number} differently from its generation prompt."
            raise TemplateError(problem, location=location, hint="Name another template in model.template.") from None
        except answer_span.EndlessAnswerError:
            problem = f"the chat template of {self.name} ends turn {number} {_ENDLESS}."
            raise TemplateError(problem, location=location, hint=self._endless_hint) from None
        if lacking := answer_span.missing_in_answer(span.answer, message, thinking=self.settings.thinking != "off"):
            problem = f"the chat template of {self.name} drops or changes {lacking.name} in turn {number}"
            hint = _REASONING_HINT if lacking.is_reasoning else "Name a template in model.template that renders it."
            raise TemplateError(f"{problem}: it trains on {one_line(span.answer, 60)!r}.", location=location, hint=hint)
        if part := answer_span.missing_in_text(self.control.plain(text), messages[:-1], tools):
            hint = self._switch_hint(messages) or "Remove it from the row, or name a template in model.template that renders it."
            raise TemplateError(f"the chat template of {self.name} drops or changes {part}.", location=location, hint=hint)
        return span

    def _check_tools(self, messages: Sequence[Message], tools: Tools, location: Location) -> None:
        calls = any("tool_calls" in message.extra for message in messages)
        lacking = "calls" if calls and not self.dialect.calls else "the list of tools" if tools and not self.dialect.tools else ""
        if lacking:
            shipped = self._shipped_hint or "Name a template with tools in model.template"
            problem = f"the row has tools, but the chat template of {self.name} does not render {lacking}."
            raise TemplateError(problem, location=location, hint=f"{shipped}, or remove the tools from the rows.")

    @property
    def _endless_hint(self) -> str:
        return (self.settings.source and self._shipped_hint) or _ENDLESS_HINT

    @cached_property
    def _shipped_hint(self) -> str:
        """Return the advice to use the shipped template with tools that fits the model's own template, if one does."""
        known, own = self.tokenizer.get_vocab(), self._own_source
        fitting = (name for name, tokens in _SHIPPED_TEMPLATES.items() if all(token in known and token in own for token in tokens))
        return next((f'Set model.template to "{name}"' for name in fitting), "")

    def _check_reasoning(self, message: Message, number: int, location: Location) -> None:
        if self.settings.thinking == "off" or not message.extra.get(REASONING):
            return
        lacking = "does not render it" if not self.dialect.reasoning else ""
        if self.dialect.reasons_before_calls and "tool_calls" not in message.extra:
            lacking = "renders it only in turns that call a tool"
        if lacking:
            problem = f"turn {number} has reasoning, but the chat template of {self.name} {lacking}."
            raise TemplateError(problem, location=location, hint=_REASONING_HINT)

    def _switch_hint(self, messages: Sequence[Message]) -> str:
        """Return a hint if a turn contains a word that the template interprets and removes, as those of SmolLM3 and Nemotron Nano
        v2 do."""
        if "/no_think" not in self.source or not any(word in turn.content for turn in messages for word in ("/no_think", "/think")):
            return ""
        return "Remove /think and /no_think from the turns. model.thinking decides whether the model reasons."

    def _notes(self, messages: Sequence[Message], tools: Tools, answers: Sequence[AnswerSpan]) -> frozenset[TemplateNote]:
        """Return the changes that the template makes to a conversation, given the spans of its trained ``answers``."""
        found: set[TemplateNote] = set()
        if self.dialect.folds(messages):
            found.add(TemplateNote.SYSTEM)
        if self.settings.thinking == "off" and any(REASONING in message.extra for message in messages):
            found.add(TemplateNote.REASONING)
        text = answers[-1].text
        if any("name" in turn.extra and turn.role != "tool" and str(turn.extra["name"]) not in text for turn in messages):
            found.add(TemplateNote.NAME)
        texts = [[turn.content, turn.extra] for turn in messages] + list(tools)
        if any(BREAK in span.text for span in answers) and self.control.typed_in(texts):
            found.add(TemplateNote.CONTROL)
        for span in answers:
            for turn in messages:
                if turn.role == "assistant" and turn.content.strip() in span.answer:
                    decode = partial(self.tokenizer.decode, span.tokens[span.start : span.end - 1])
                    found.update(answer_span.notes(span.answer, turn, decode))
        return frozenset(found)

    def render(self, messages: Sequence[Message], tools: Tools = (), *, generation_prompt: bool = False) -> str:
        """Render ``messages`` to text, with the generation prompt appended if requested. Raises ``TemplateError``."""
        return self.control.plain(self._rendered(messages, tools, generation_prompt=generation_prompt))

    def _rendered(
        self, messages: Sequence[Message], tools: Tools, *, generation_prompt: bool,
        location: Location | None = None,
    ) -> str:  # fmt: skip
        """Render ``messages`` to text, with a break in every control token that they contain."""
        thinking = self.settings.thinking
        broken = [replace(one, content=self.control.broken(one.content), extra=self.control.broken(one.extra)) for one in messages]
        adapted = self.dialect.adapt(broken, thinking=thinking != "off", keep=self.thinking.keeps(thinking))
        turns: Sequence[dialects.TurnDict] = adapted
        tools = self.control.broken(list(tools))
        if tools and self.dialect.tools_in_system:
            turns, tools = dialects.with_tools_in_system(turns, tools), ()
        try:
            return self._apply(turns, tools, generation_prompt)
        except TemplateError as error:
            if not location:
                raise
            raise TemplateError(error.problem, location=location, hint=error.hint) from error

    def _apply(self, turns: Sequence[dialects.TurnDict], tools: Tools, generation_prompt: bool) -> str:
        if not self.tokenizer.has_chat_template and not self.settings.source:
            raise TemplateError(f"The model {self.name} has no chat template.", hint="Use its instruct version, or text rows.")
        if word := self.thinking.word(self.settings.thinking):
            turns = dialects.with_word_in_system(turns, word)
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(turns), tools=list(tools) or None, add_generation_prompt=generation_prompt, tokenize=False, **self._variables
            )
        except Exception as error:  # a template is a program and may raise anything
            reason = one_line(str(error), 120)
            message = f"The chat template of {self.name} rejects this conversation: {reason or type(error).__name__}"
            raise TemplateError(message, hint="Change the turns, or name another template in model.template.") from error
        return text


def _encoded(
    row: Conversation, tokens: Sequence[int], answers: Iterable[AnswerSpan], *, turn: int = 0, notes: frozenset[TemplateNote]
) -> Encoded:
    trained = np.zeros(len(tokens), bool)
    for span in answers:
        trained[span.start : span.end] = True
    return Encoded(row.id, row.location, np.array(tokens, np.int32), trained, len(tokens), turn, notes)


def _prompt_fills_window(location: Location, max_tokens: int) -> TooLongError:
    message = f"{location}: the prompt fills the window of {max_tokens:,} tokens, so no token is trained."
    return TooLongError(message, hint="Raise data.max_tokens, or shorten the prompt.")


def _normalized(text: str) -> list[str]:
    """Return the lines of ``text``, normalized for whitespace, empty lines and Unicode composition."""
    return [" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines() if line.strip()]
