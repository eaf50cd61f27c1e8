"""What a training example is, whatever file format it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlxtune.core.hashing import sha256_json


@dataclass(frozen=True)
class Place:
    """Where a row stands: file and line (1-based)."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file.name}, line {self.line}"


@dataclass(frozen=True)
class Message:
    """One turn. ``extra`` holds what a template may want beside the text: ``tool_calls``, ``name``, ``tool_call_id``."""

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class _Row:
    place: Place
    meta: dict[str, Any]

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
    """A prompt with a better and a worse answer."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str

    @property
    def content(self) -> Any:
        return {"prompt": [message.as_dict() for message in self.prompt], "chosen": self.chosen, "rejected": self.rejected}

    @property
    def question(self) -> Any:
        return [message.as_dict() for message in self.prompt if message.role != "system"]


Row = Conversation | Text | Preference
