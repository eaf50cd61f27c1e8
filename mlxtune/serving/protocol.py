"""What faces and the process that computes say to each other, a line of JSON each. No mlx here: faces read it.

A face sends ``{"do": "ask", …}``, ``{"do": "cancel", "id"}``, and ends by closing the pipe. The process answers with the events
below: ``ready`` once, then for each question ``accepted``, pieces of text, and at last ``done`` or ``failed``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.data.rows import Message

Kind = Literal["input", "adapter", "full", "gone", "fault"]
Ending = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. ``temperature`` 0 is greedy; ``seed`` makes a drawn answer come again, without one it is drawn by lot.

    ``stop`` strings end the answer and are no part of it; ``max_tokens`` cut it off.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what cannot be drawn from."""
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}.", mend="Give 1 or more.")
        if not 0 <= self.temperature <= 5:
            raise InputError(f"temperature is {self.temperature}.", mend="Give a number from 0 to 5.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}.", mend="Give a number above 0, at most 1.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}.", mend="Give a number of at most 64 bits.")
        if not all(self.stop):
            raise InputError("A stop string is empty.", mend="Leave it out.")


GREEDY = Sampling()


@dataclass(frozen=True)
class Ask:
    """A question: the turns so far, the adapter's name (empty: the base), tools for the template, a JSON Schema to hold the answer to."""

    id: str
    messages: tuple[Message, ...]
    adapter: str = ""
    sampling: Sampling = GREEDY
    tools: tuple[dict[str, Any], ...] = ()
    schema: Any = None


@dataclass(frozen=True)
class Ready:
    """The base is loaded. ``path`` says in words how it computes, ``context`` is how many tokens it can see, ``seconds`` loading took."""

    base: str
    fingerprint: str
    path: str
    context: int
    seconds: float


@dataclass(frozen=True)
class Accepted:
    """A question has its place; ``ahead`` are waiting before it. ``seed`` is the one that its answer is drawn with."""

    id: str
    prompt_tokens: int
    ahead: int
    seed: int


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer, never half a character."""

    id: str
    text: str


@dataclass(frozen=True)
class Done:
    """An answer is complete. Seconds: ``waited`` for a place, ``first`` from then to the first token, ``seconds`` in all.

    ``cached`` tokens of the prompt were known from before; ``alone`` tokens were too close to call in a batch and computed alone.
    """

    id: str
    ended: Ending
    prompt_tokens: int
    cached: int
    tokens: int
    alone: int
    waited: float
    first: float
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second behind the first."""
        rest = self.seconds - self.waited - self.first
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Failed:
    """A question, or with an empty ``id`` the whole process, came to nothing.

    ``kind``: ``input`` cannot be used, ``adapter`` cannot be had, ``full`` no place now, ``gone`` the process ended, ``fault`` is ours.
    """

    id: str
    kind: Kind
    error: str
    mend: str
    code: int

    @classmethod
    def of(cls, id: str, error: MlxtuneError, kind: Kind | None = None) -> Failed:
        """``error`` as an event."""
        return cls(id, kind or ("input" if isinstance(error, InputError) else "fault"), error.message, error.mend, error.exit_code)

    def as_error(self) -> MlxtuneError:
        """The event as an error to raise."""
        kinds: dict[int, type[MlxtuneError]] = {2: InputError, 4: MachineError}
        return kinds.get(self.code, MlxtuneError)(self.error, mend=self.mend)


Event = Ready | Accepted | Piece | Done | Failed
_EVENTS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


def event_line(event: Event) -> str:
    """``event`` as a line."""
    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) + "\n"


def parse_event(line: str | bytes) -> Event | None:
    """The event in ``line``; ``None`` where there is none."""
    try:
        told = json.loads(line)
        kind = _EVENTS[told.pop("event")]
        return kind(**{field.name: told[field.name] for field in fields(kind)})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def ask_line(ask: Ask) -> str:
    """``ask`` as a line."""
    messages = [message.as_dict() for message in ask.messages]
    return json.dumps({"do": "ask", **vars(ask), "messages": messages, "sampling": asdict(ask.sampling)}) + "\n"


def parse_ask(told: Mapping[str, Any]) -> Ask:
    """The question in a line that was read. Raises ``InputError`` for what is none."""
    try:
        messages = tuple(_message(turn) for turn in told["messages"])
        sampling = Sampling(**{**told["sampling"], "stop": tuple(told["sampling"]["stop"])})
        return Ask(str(told["id"]), messages, str(told["adapter"]), sampling, tuple(told["tools"]), told["schema"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"A question cannot be read: {error!r}.") from error


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return Message(turn["role"], turn["content"], extra)
