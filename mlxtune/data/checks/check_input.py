"""A row as the checks see it: its texts, their roles, and which of them are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mlxtune.data.rows import Conversation, Message, Preference, Row, Text, Unpaired


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text in a row. ``exact`` is false if JSON escapes were resolved, so that offsets do not match the row's text."""

    name: str
    role: str
    text: str
    trains: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A row's number of tokens, and how many come before the first trained one; or the chat template's ``error``.

    ``notes`` say what the template changes in the row. If each answer is a row of its own, the counts are those of the longest one.
    """

    total: int
    prompt: int
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckInput:
    """Record number ``index`` in a source, with its token count and the ``max_tokens`` window if they are known."""

    index: int
    row: Row
    tokens: TokenCount | None = None
    max_tokens: int = 0

    @cached_property
    def parts(self) -> tuple[TextPart, ...]:
        """All texts in the row, and the decoded strings of JSON texts whose escapes hide characters."""
        return tuple(part for own in text_parts(self.row) for part in (own, *_resolve_escapes(own)) if part.text)

    @cached_property
    def target(self) -> str:
        """The text that the row teaches."""
        return target_text(self.row)


def target_text(row: Row) -> str:
    """Return the text that ``row`` teaches: its last answer, or both answers of a pair."""
    if isinstance(row, Conversation):
        return row.reference
    if isinstance(row, Preference):
        return f"{row.chosen}\n{row.rejected}"
    return row.text if isinstance(row, Text) else row.completion


def system_prompt(row: Row) -> str:
    """Return the row's system prompt, or an empty string."""
    turns = () if isinstance(row, Text) else row.messages if isinstance(row, Conversation) else row.prompt
    return "\n".join(turn.content for turn in turns if turn.is_system)


def text_parts(row: Row) -> Iterator[TextPart]:
    """Yield every text in ``row``, including empty ones, in conversation order."""
    if isinstance(row, Text):
        yield TextPart("text", "text", row.text, trains=True)
        return
    turns = row.messages if isinstance(row, Conversation) else row.prompt
    for number, turn in enumerate(turns, 1):
        yield TextPart(
            f"turn {number}", turn.role, turn.content, turn.role == "assistant" and turn.trained and isinstance(row, Conversation)
        )
    if isinstance(row, Preference):
        yield TextPart("chosen", "assistant", row.chosen, trains=True)
        yield TextPart("rejected", "rejected", row.rejected)
    elif not isinstance(row, Conversation):
        yield TextPart("completion", "assistant", row.completion, trains=row.label)


def rewrite_texts(row: Row, rewrite: Callable[[str, str], str]) -> Row:
    """Return ``row`` with every text replaced by ``rewrite(part_name, text)``; parts are named as in :func:`text_parts`."""

    def turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(replace(turn, content=rewrite(f"turn {number}", turn.content)) for number, turn in enumerate(messages, 1))

    match row:
        case Text():
            return replace(row, text=rewrite("text", row.text))
        case Conversation():
            return replace(row, messages=turns(row.messages))
        case Preference():
            chosen, rejected = rewrite("chosen", row.chosen), rewrite("rejected", row.rejected)
            return replace(row, prompt=turns(row.prompt), chosen=chosen, rejected=rejected)
        case Unpaired():
            return replace(row, prompt=turns(row.prompt), completion=rewrite("completion", row.completion))


def _resolve_escapes(part: TextPart) -> Iterator[TextPart]:
    """Yield the decoded strings of a JSON text if its escapes hide characters."""
    if "\\u" not in part.text or part.text.lstrip()[:1] not in ("{", "["):
        return
    try:
        value: Any = json.loads(part.text)
    except (ValueError, RecursionError):
        return
    text = "\n".join(_strings(value))
    if not (text.isprintable() and text.isascii()):
        yield TextPart(f"{part.name}, escapes resolved", part.role, text, part.trains, exact=False)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
