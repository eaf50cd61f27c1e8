"""Find where an answer starts and ends in a rendered conversation, and verify that all content of the row is in the text."""

import json
import re
import unicodedata
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlxtune.core.sequences import common_length
from mlxtune.data.readers.formats import BREAK
from mlxtune.data.rows import REASONING, Message
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models.control_tokens import ControlTokens
from mlxtune.models.dialect import Dialect
from mlxtune.models.thoughts import THOUGHTS


@dataclass(frozen=True)
class AnswerSpan:
    """The ``tokens`` of a conversation and of its last answer, which ``start`` and ``end`` delimit; its stop token is included.

    ``text`` is the rendered conversation with its breaks, ``answer`` the text of the answer without them and without stop token.
    """

    tokens: list[int]
    start: int
    end: int
    text: str
    answer: str


class MissingPart(NamedTuple):
    """A part of an answer that is missing in its rendered text. ``name`` is for an error message."""

    name: str
    is_reasoning: bool = False


class RewrittenAnswerError(Exception):
    """The rendered conversation does not begin with the prompt that the model gets at inference."""


class OpenThoughtError(RewrittenAnswerError):
    """The inference prompt begins a thought that the rendered conversation does not have."""


class EndlessAnswerError(Exception):
    """No stop token follows the prompt."""


def locate_answer(
    prompt: str, text: str, dialect: Dialect, control: ControlTokens, stops: Mapping[int, str], closing: Container[int]
) -> AnswerSpan:
    """Return the answer in ``text``, a conversation whose inference prompt is ``prompt``; both contain breaks.

    ``stops`` maps the ids of stop tokens to their texts. The answer includes the one in ``closing`` if it follows another. If the
    tokenizer merges the end of the prompt and the start of the answer into one token, as it may if the answer begins with
    whitespace, both are encoded separately, because the model generates its answer after the prompt's own tokens. Raises
    ``RewrittenAnswerError`` or ``EndlessAnswerError``.
    """
    if not text.startswith(prompt):
        text = prompt + _after_header(prompt, text, dialect)
    before, tokens = control.encode(prompt), control.encode(text)
    if tokens[: len(before)] != before:
        text = prompt + BREAK + text[len(prompt) :]
        tokens = control.encode(text)
    stop = next((index for index in range(len(before), len(tokens)) if tokens[index] in stops), None)
    if stop is None:
        raise EndlessAnswerError
    stop += stop + 1 < len(tokens) and tokens[stop + 1] in closing
    rest = text[len(prompt) :]
    opened = next((start for start in THOUGHTS if prompt.rstrip().endswith(start)), "")
    if opened and THOUGHTS[opened] not in rest:
        raise OpenThoughtError
    ends = [place for word in stops.values() if (place := rest.find(word)) >= 0]
    return AnswerSpan(tokens, len(before), stop + 1, text, control.plain(rest[: min(ends, default=len(rest))]))


def _after_header(prompt: str, text: str, dialect: Dialect) -> str:
    """Return the last turn of ``text`` without its header, for a ``text`` whose earlier turns or header differ from ``prompt``.

    Some templates render earlier turns differently once the answer is there (gpt-oss drops the reasoning before a call), or have a
    generation prompt with an empty thought (Gemma 4). The answer then follows the prompt, as it does at inference.
    """
    if any(prompt.rfind(start) > prompt.rfind(end) for start, end in THOUGHTS.items()):
        raise OpenThoughtError
    header, extra = dialect.header.removesuffix(dialect.extra), dialect.extra
    if extra and prompt.endswith(extra) and text.startswith(bare := prompt.removesuffix(extra)):
        return text[len(bare) :]
    if not header or not prompt.endswith(header + extra):
        raise RewrittenAnswerError
    head = prompt.removesuffix(extra)
    shared = common_length(head, text)
    places = [match.end() for match in re.finditer(re.escape(header), text) if match.end() >= shared]
    common = {place: common_length(head[::-1], text[:place][::-1]) for place in places}
    best = max(common, key=lambda place: common[place], default=0)
    if not best or (common[best] <= len(header) and len(places) > 1):
        raise RewrittenAnswerError
    return text[best:]


def missing_in_answer(answer: str, message: Message, *, thinking: bool) -> MissingPart | None:
    """Return the part of ``message`` that is missing in the rendered ``answer``, if any."""
    if message.content.strip() not in answer:
        return MissingPart("its text")
    if thinking and (reasoning := message.extra.get(REASONING)) and reasoning.strip() not in answer:
        return MissingPart("its reasoning", is_reasoning=True)
    for call in message.extra.get("tool_calls", ()):
        if lacking := _missing_in_call(answer, call):
            return MissingPart(lacking)
    return None


def missing_in_text(text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
    """Return the name of a part of the context turns or of ``tools`` that is missing in the rendered ``text``, or ``""``."""
    for number, message in enumerate(messages, 1):
        if message.role != "assistant" and not _contains(text, message.content):
            return f"the text of turn {number} ({message.role})"
        for call in message.extra.get("tool_calls", ()):
            if lacking := _missing_in_call(text, call):
                return f"{lacking} in turn {number}"
    for tool in tools:
        function = tool.get("function", tool)
        parameters = (function.get("parameters") or {}).get("properties") or {}
        for word in (function.get("name"), function.get("description"), *parameters):
            if word and not _contains(text, str(word)):
                return f"“{word}” of the tool {function.get('name')}"
    return ""


def notes(answer: str, message: Message, decode: Callable[[], str]) -> Iterator[TemplateNote]:
    """Yield how the trained text of ``message`` differs from it: ``answer`` as rendered, and as decoded from its tokens by
    ``decode``."""
    content = message.content
    if content.strip() != content and content not in answer:
        yield TemplateNote.TRIMMED
    if not unicodedata.is_normalized("NFC", content):
        decoded = decode()
        if content.strip() not in decoded and _composed(content) in _composed(decoded):
            yield TemplateNote.COMPOSED


def _missing_in_call(text: str, call: dict[str, Any]) -> str:
    function = call["function"]
    for word in (function["name"], *_leaves(function["arguments"])):
        if not _contains(text, word):
            return f"“{word}” in the call to {function['name']}"
    return ""


def _leaves(value: Any) -> Iterator[str]:
    """Yield the keys, strings and numbers of a JSON value. The template is known to render the other values."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _contains(text: str, content: str) -> bool:
    """Return whether ``text`` contains ``content``: unchanged, with escapes, or with different whitespace."""
    content = content.strip()
    if content in text:
        return True
    escaped = (json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1], repr(content)[1:-1])
    return any(one in text for one in escaped) or " ".join(content.split()) in " ".join(text.split())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
