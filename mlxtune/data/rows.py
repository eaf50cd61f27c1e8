"""Rows: training examples, independent of the file format they were read from."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mlxtune.core.errors import DataError
from mlxtune.core.hashing import sha256_json
from mlxtune.recipe.schema import Turns

Container = TypeVar("Container", dict[str, Any], list[Any])


@dataclass(frozen=True)
class Location:
    """The position of a row: its file, its first line and, in a JSON array, its element (both 1-based)."""

    file: Path
    line: int
    element: int | None = None

    @property
    def number(self) -> int:
        """The row's number in messages: its element in a JSON array, otherwise its line."""
        return self.line if self.element is None else self.element

    @property
    def place(self) -> str:
        """The position within the file, such as ``line 4`` or ``row 18``."""
        return f"{'line' if self.element is None else 'row'} {self.number:,}"

    def __str__(self) -> str:
        return f"{self.file.name}, {self.place}"


class RowError(DataError):
    """A record that cannot be used as a row. ``reason`` is the message without the location; ``kind`` is a check's ID.

    ``raw`` is the record as it is in the file, ``text`` what could be decoded, and ``at`` the place of the fault in it, if known.
    """

    def __init__(self, location: Location, reason: str, *, hint: str, kind: str = "bad-row", at: int | None = None) -> None:
        super().__init__(f"{location}: {reason}", hint=hint)
        self.location = location
        self.reason = reason
        self.kind = kind
        self.at = at
        self.raw, self.text = b"", ""

    @property
    def hash(self) -> str:
        """Identifies the record, as the hash of a row does."""
        return hashlib.sha256(self.raw).hexdigest()


_THOUGHTS = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)  # reasoning written into an answer
REASONING = "reasoning_content"  # the key of ``Message.extra`` with the reasoning before an answer


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the reasoning in the ``<think>`` block at the start of ``text``, and the answer after it."""
    match = _THOUGHTS.match(text)
    return (match[1].strip(), text[match.end() :]) if match else ("", text)


def join_reasoning(reasoning: str, answer: str) -> str:
    """Return ``answer`` with ``reasoning`` before it, in the form that :func:`split_reasoning` reads."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else answer


@dataclass(frozen=True)
class Message:
    """One turn. ``extra`` holds other keys that a chat template uses, such as ``tool_calls`` (arguments as objects) or ``name``.

    An assistant turn that is not ``trained`` is context only. ``trained`` is not part of the row's hash.
    """

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)
    trained: bool = True

    @property
    def is_system(self) -> bool:
        """Whether the turn instructs the model; ``developer`` is another name for this role."""
        return self.role in ("system", "developer")

    def as_dict(self) -> dict[str, Any]:
        """Return the turn in OpenAI's format, without its weight."""
        return {"role": self.role, "content": self.content, **self.extra}

    def as_record(self) -> dict[str, Any]:
        """Return the turn in OpenAI's format, with a weight of 0 if it is not trained."""
        return {**self.as_dict(), **({} if self.trained else {"weight": 0})}


def calls_as_json(calls: Sequence[dict[str, Any]]) -> str:
    """Return tool calls as JSON text: one as ``{"name": …, "arguments": {…}}``, several as a list."""
    plain = [{key: call["function"].get(key, {}) for key in ("name", "arguments")} for call in calls]
    return json.dumps(plain[0] if len(plain) == 1 else plain, ensure_ascii=False)


def assistant_message(text: str) -> Message:
    """Return ``text`` as an assistant turn, with the reasoning of a ``<think>`` block in its place."""
    reasoning, answer = split_reasoning(text)
    return Message("assistant", answer, {REASONING: reasoning} if reasoning else {})


def _without_system(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.as_dict() for message in messages if message.role != "system"]


@dataclass(frozen=True)
class _Row:
    """Base class of all rows. ``format`` is the source format; like location and metadata, it is not part of the content or hash."""

    location: Location
    meta: dict[str, Any]
    format: str = field(default="", kw_only=True, compare=False)

    @property
    def content(self) -> Any:
        """The text of the row as a JSON value, without location and metadata."""
        raise NotImplementedError

    @property
    def prompt_content(self) -> Any:
        """The prompt without system turns, as a JSON value. Rows with identical prompts belong in the same split."""
        assert isinstance(self, PromptRow)
        return _without_system(self.prompt)

    @property
    def identity(self) -> Any:
        """The JSON value that identifies the row: its content, regardless of which parts are trained."""
        return self.content

    @cached_property
    def hash(self) -> str:
        """The hex SHA-256 of :attr:`identity`, by which splits, reviews and reports refer to the row."""
        return sha256_json(self.identity)

    @property
    def id(self) -> str:
        """The first 12 digits of the hash, as shown to users."""
        return self.hash[:12]


@dataclass(frozen=True)
class Conversation(_Row):
    """Messages that end with an assistant turn; ``tools`` are JSON function descriptions."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> Any:
        return {"messages": [message.as_record() for message in self.messages], "tools": list(self.tools)}

    @property
    def identity(self) -> Any:
        return {"messages": [message.as_dict() for message in self.messages], "tools": list(self.tools)}

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All messages before the last assistant turn: the input of an evaluation."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The last assistant turn: the reference answer, or its calls as JSON."""
        last = self.messages[-1]
        return last.content or calls_as_json(last.extra.get("tool_calls", ()))


@dataclass(frozen=True)
class TextRow(_Row):
    """Plain text. Every token except the first is a training target."""

    text: str

    @property
    def content(self) -> Any:
        return {"text": self.text}

    @property
    def prompt_content(self) -> Any:
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
    def reference(self) -> str:
        """The chosen answer, without its reasoning."""
        return split_reasoning(self.chosen)[1]


@dataclass(frozen=True)
class Unpaired(_Row):
    """A prompt with one answer, labeled desirable or not, for KTO (Ethayarajh et al. 2024, arXiv:2402.01306).

    ``tools`` are JSON function descriptions.
    """

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> Any:
        tools = {"tools": list(self.tools)} if self.tools else {}
        prompt = [message.as_dict() for message in self.prompt]
        return {"prompt": prompt, "completion": self.completion, "label": self.label, **tools}

    @property
    def reference(self) -> str | None:
        """The answer without its reasoning if it is desirable, otherwise ``None``."""
        return split_reasoning(self.completion)[1] if self.label else None


PromptRow = Conversation | Preference | Unpaired  # rows with a prompt
Row = PromptRow | TextRow
Prompts = list[tuple[str, tuple[Message, ...]]]  # with their hashes


def shared_system_prompt(rows: Iterable[Row]) -> str:
    """Return the system prompt that all ``rows`` begin with, or an empty string if they have none or several."""
    first_turns = [None if isinstance(row, TextRow) or not row.prompt else row.prompt[0] for row in rows]
    prompts = {turn.content if turn and turn.role == "system" else "" for turn in first_turns}
    return prompts.pop() if len(prompts) == 1 else ""


def prompt_text(row: Row) -> str:
    """Return the text of the prompt without system turns, one line per turn, or the whole text of a text row."""
    return "\n".join(json_strings(row.prompt_content, ("role",)))


def messages_text(prompt: Sequence[Message]) -> str:
    """Return the :func:`prompt_text` of a row with this prompt."""
    return "\n".join(json_strings(_without_system(prompt), ("role",)))


def prompt_hash(row: Row) -> str:
    """Return the hash of the prompt, ignoring case and whitespace."""
    return sha256_json(_fold(row.prompt_content))


def messages_hash(prompt: Sequence[Message]) -> str:
    """Return the :func:`prompt_hash` of a row with this prompt."""
    return sha256_json(_fold(_without_system(prompt)))


def trained_turns(row: Conversation, turns: Turns = "auto") -> list[int]:
    """Return the numbers (1-based) of the assistant turns that ``data.turns`` trains on; the prompt of turn n is the n - 1 before it."""
    numbers = [number for number, turn in enumerate(row.messages, 1) if turn.role == "assistant" and turn.trained]
    return numbers[-1:] if turns == "last" else numbers


def turn_rows(row: PromptRow, *, untrained: bool = False) -> list[PromptRow]:
    """Return a row for each trained answer of ``row``, which is its last turn, or also for each ``untrained`` one. Earlier answers are
    only read."""
    if not isinstance(row, Conversation):
        return [row]
    numbers = [number for number, turn in enumerate(row.messages, 1) if turn.role == "assistant" and (turn.trained or untrained)]
    if len(numbers) == 1:
        return [row]
    read = tuple(replace(turn, trained=turn.role != "assistant") for turn in row.messages)
    return [replace(row, messages=(*read[: number - 1], replace(row.messages[number - 1], trained=True))) for number in numbers]


def earlier_prompts(row: Row, turns: Turns = "auto") -> list[tuple[Message, ...]]:
    """Return the prompts to which a row trains answers in turns before its last one."""
    if not isinstance(row, Conversation):
        return []
    return [row.messages[: turn - 1] for turn in trained_turns(row, turns) if turn < len(row.messages)]


def prompt_hashes(row: Row, turns: Turns = "auto") -> tuple[str, ...]:
    """Return the hashes of all prompts that a row trains answers to. The first one is :func:`prompt_hash`, which an evaluation sends."""
    return (prompt_hash(row), *map(messages_hash, earlier_prompts(row, turns)))


def row_prompts(row: Row, turns: Turns = "auto") -> Prompts:
    """Return the prompts that a row trains answers to with their :func:`prompt_hashes`, in that order."""
    last = (Message("user", row.text),) if isinstance(row, TextRow) else row.prompt
    return list(zip(prompt_hashes(row, turns), (last, *earlier_prompts(row, turns)), strict=True))


def row_text(row: Row) -> str:
    """Return all text of the row, one line per turn."""
    return "\n".join(json_strings(row.content, ("role", "tools")))


def row_turns(row: Row) -> tuple[Message, ...]:
    """Return the turns of the row, without the answers that a pair compares; none of plain text."""
    return () if isinstance(row, TextRow) else row.messages if isinstance(row, Conversation) else row.prompt


def with_turns(row: Row, turns: tuple[Message, ...]) -> Row:
    """Return ``row`` with other :func:`row_turns`."""
    if isinstance(row, TextRow):
        return row
    return replace(row, messages=turns) if isinstance(row, Conversation) else replace(row, prompt=turns)


def row_tools(row: Row) -> list[Any]:
    if isinstance(row, TextRow):
        return []
    return [*row.tools, *(call for turn in row_turns(row) for call in turn.extra.get("tool_calls", ()))]


def last_prompt(row: Row) -> str:
    """Return the last turn of the prompt, which is enough to distinguish rows at a glance."""
    prompt = row.prompt_content
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) if prompt else row_text(row)


def json_value(text: str) -> Any:
    """Return the JSON value that ``text`` is, or ``None``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_in_reply(reply: str, kind: type[Container]) -> Container | None:
    """Return the JSON object or list (which ``kind`` says) in a model's reply, which may have text around it, or ``None``."""
    start, end = "{}" if kind is dict else "[]"
    text = reply.rpartition("</think>")[2]  # reasoning is not part of the reply
    value = json_value(text[text.find(start) : text.rfind(end) + 1])
    return value if isinstance(value, kind) else None


def is_deeper(value: Any, levels: int) -> bool:
    """Return whether a JSON value has values within ``levels`` lists and objects."""
    level = [value]
    for _ in range(levels):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def json_strings(value: Any, skipped_keys: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from json_strings(item, skipped_keys)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in skipped_keys:
                yield from json_strings(item, skipped_keys)


def _fold(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, list):
        return [_fold(item) for item in value]
    return {key: _fold(item) for key, item in value.items()} if isinstance(value, dict) else value


REVIEW_STATUS = "review_status"  # metadata key with what was decided about the row in the tool that it comes from
TAG_KEYS = ("tags", "tag")  # metadata keys that contain tags


def row_tags(row: Row) -> tuple[str, ...]:
    """Return the tags in a row's metadata: ``tags`` (a list or one word), or else ``tag``."""
    tags = row.meta.get("tags", row.meta.get("tag"))
    return tuple(map(str, tags)) if isinstance(tags, list | tuple) else () if tags is None else (str(tags),)
