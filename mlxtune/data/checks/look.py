"""A row as the checks see it: its texts, who says them, and which of them train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mlxtune.data.rows import Conversation, Message, Preference, Row, Text, Unpaired


@dataclass(frozen=True, slots=True)
class Part:
    """One text of a row. ``trains`` says whether it is learned; ``exact`` is false where escapes in it were resolved."""

    name: str
    role: str
    text: str
    trains: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Look:
    """Row number ``at`` of the source."""

    at: int
    row: Row

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All texts of the row, and the strings in JSON ones whose escapes hide something."""
        return tuple(part for one in parts(self.row) for part in (one, *_resolved(one)) if part.text)

    @property
    def answers(self) -> tuple[Part, ...]:
        """The texts that train."""
        return tuple(part for part in self.parts if part.trains and part.exact)

    @property
    def target(self) -> str:
        """What the row teaches to say, as one text."""
        return target(self.row)


def target(row: Row) -> str:
    """What ``row`` teaches to say: its last answer, or both of a pair."""
    if isinstance(row, Conversation):
        return row.reference or json.dumps(row.messages[-1].extra, ensure_ascii=False)
    if isinstance(row, Preference):
        return f"{row.chosen}\n{row.rejected}"
    return row.text if isinstance(row, Text) else row.completion


def system(row: Row) -> str:
    """The row's system prompt, or nothing."""
    turns = () if isinstance(row, Text) else row.messages if isinstance(row, Conversation) else row.prompt
    return "\n".join(turn.content for turn in turns if turn.role in ("system", "developer"))


def parts(row: Row) -> Iterator[Part]:
    """Every text of ``row``, empty ones too, in the order of the conversation."""
    if isinstance(row, Text):
        yield Part("text", "text", row.text, trains=True)
        return
    turns = row.messages if isinstance(row, Conversation) else row.prompt
    for number, turn in enumerate(turns, 1):
        yield Part(f"turn {number}", turn.role, turn.content, turn.role == "assistant" and isinstance(row, Conversation))
    if isinstance(row, Preference):
        yield Part("chosen", "assistant", row.chosen, trains=True)
        yield Part("rejected", "rejected", row.rejected)
    elif not isinstance(row, Conversation):
        yield Part("completion", "assistant", row.completion, trains=row.label)


def rewritten(row: Row, say: Callable[[str, str], str]) -> Row:
    """``row`` with every text as ``say(part, text)`` gives it; parts are named as in :func:`parts`."""

    def turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(replace(turn, content=say(f"turn {number}", turn.content)) for number, turn in enumerate(messages, 1))

    match row:
        case Text():
            return replace(row, text=say("text", row.text))
        case Conversation():
            return replace(row, messages=turns(row.messages))
        case Preference():
            return replace(row, prompt=turns(row.prompt), chosen=say("chosen", row.chosen), rejected=say("rejected", row.rejected))
        case Unpaired():
            return replace(row, prompt=turns(row.prompt), completion=say("completion", row.completion))


def _resolved(part: Part) -> Iterator[Part]:
    """The strings of a JSON text as a reader sees them, where they are written with escapes for characters."""
    if "\\u" not in part.text or part.text.lstrip()[:1] not in ("{", "["):
        return
    try:
        value: Any = json.loads(part.text)
    except (ValueError, RecursionError):
        return
    text = "\n".join(_strings(value))
    if text.isprintable() and text.isascii():
        return
    yield Part(f"{part.name}, escapes resolved", part.role, text, part.trains, exact=False)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
