"""Verify that all content of a row is in its rendered text: answers, reasoning, calls, results, and lists of tools."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlxtune.data.rows import REASONING, Message
from mlxtune.data.template_notes import TemplateNote


def missing_in_answer(answer: str, message: Message, *, thinking: bool) -> str:
    """Return the part of ``message`` that is missing in the rendered ``answer``, such as "its reasoning", or an empty string."""
    if message.content.strip() not in answer:
        return "its text"
    if thinking and (reasoning := message.extra.get(REASONING)) and reasoning.strip() not in answer:
        return "its reasoning"
    for call in message.extra.get("tool_calls", ()):
        if lacking := _missing_in_call(answer, call):
            return lacking
    return ""


def missing_in_text(text: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
    """Return the part of the context turns or of ``tools`` that is missing in the rendered ``text``, or an empty string."""
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
