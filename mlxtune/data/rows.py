"""What a training example is, whatever file format it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.hashing import sha256_json


@dataclass(frozen=True)
class Place:
    """Where a row stands: file, the line it begins on and, in a JSON array, which element it is (both 1-based)."""

    file: Path
    line: int
    element: int | None = None

    def __str__(self) -> str:
        return f"{self.file.name}, line {self.line}" + (f", element {self.element}" if self.element else "")


class RowError(DataError):
    """A row that cannot be used: where it stands (``place``), the reason alone (``why``), and the way to mend it."""

    def __init__(self, place: Place, why: str, *, mend: str) -> None:
        super().__init__(f"{place}: {why}", mend=mend)
        self.place = place
        self.why = why


@dataclass(frozen=True)
class Message:
    """One turn. ``extra`` holds what a template may want beside the text: ``tool_calls`` (arguments as objects), ``name``, …"""

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class _Row:
    """``format`` is the one the row came in as; it is no part of the content, the hash or equality."""

    place: Place
    meta: dict[str, Any]
    format: str = field(default="", kw_only=True, compare=False)

    @property
    def content(self) -> Any:
        """What the row teaches, as a JSON value; place and meta are no part of it."""
        raise NotImplementedError

    @property
    def question(self) -> Any:
        """What is asked: rows with one question belong on one side of a split."""
        raise NotImplementedError

    @cached_property
    def hash(self) -> str:
        """Hex sha256 of the content: the row's identity in splits, reviews and reports."""
        return sha256_json(self.content)

    @property
    def id(self) -> str:
        """The first 12 digits of the hash: what people and reports call the row."""
        return self.hash[:12]


@dataclass(frozen=True)
class Conversation(_Row):
    """Messages that end with an assistant turn; ``tools`` are JSON function descriptions."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> Any:
        return {"messages": [message.as_dict() for message in self.messages], "tools": list(self.tools)}

    @property
    def question(self) -> Any:
        return [message.as_dict() for message in self.messages[:-1] if message.role != "system"]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All but the last assistant turn: what a model is asked in an evaluation."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The last assistant turn: the answer that the data gives."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Text(_Row):
    """Plain text, trained from its second token to its end."""

    text: str

    @property
    def content(self) -> Any:
        return {"text": self.text}

    @property
    def question(self) -> Any:
        return self.text


@dataclass(frozen=True)
class Preference(_Row):
    """A prompt with a better and a worse answer; ``tools`` are JSON function descriptions."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> Any:
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"prompt": [message.as_dict() for message in self.prompt], "chosen": self.chosen, "rejected": self.rejected, **tools}

    @property
    def question(self) -> Any:
        return [message.as_dict() for message in self.prompt if message.role != "system"]

    @property
    def reference(self) -> str:
        """The answer that the data gives: the chosen one."""
        return self.chosen


@dataclass(frozen=True)
class Unpaired(_Row):
    """A prompt with one answer and whether it is a wanted one, as KTO takes it (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool

    tools = ()

    @property
    def reference(self) -> str | None:
        """The answer that the data gives, where it is a wanted one."""
        return self.completion if self.label else None

    @property
    def content(self) -> Any:
        return {"prompt": [message.as_dict() for message in self.prompt], "completion": self.completion, "label": self.label}

    @property
    def question(self) -> Any:
        return [message.as_dict() for message in self.prompt if message.role != "system"]


Question = Conversation | Preference | Unpaired  # rows that ask a model something
Row = Question | Text


def shared_system(rows: Iterable[Row]) -> str:
    """The system prompt that all ``rows`` begin with; empty where they have none, or several."""
    turns = [None if isinstance(row, Text) or not row.prompt else row.prompt[0] for row in rows]
    found = {turn.content if turn and turn.role == "system" else "" for turn in turns}
    return found.pop() if len(found) == 1 else ""
