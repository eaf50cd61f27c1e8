"""Requests to the model process and its events, as JSON. Does not import mlx, because the CLI and the app use it.

``client.py`` sends a ``load`` request, answered by :class:`Ready`, then ``generate`` requests: progress is :class:`Accepted`,
:class:`Piece` and :class:`ToolCall`, the result is :class:`Done` or :class:`Failed`. The result of an ``embed`` request is :class:`Embedded`
or :class:`Failed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from mlxtune.core.errors import InputError, MlxtuneError, error_from_json, error_to_json
from mlxtune.data.rows import Message

Prompt = str | tuple[int, ...]
FailureKind = Literal["input", "adapter", "full", "gone", "fault"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy. The same ``seed`` gives the same answer; ``None`` picks one at random.

    ``stop`` strings end the answer and are not part of it; ``max_tokens`` truncates it.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ``InputError`` for values out of range."""
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, but is {self.max_tokens}.")
        if not 0 <= self.temperature <= 5:
            raise InputError(f"temperature must be from 0 to 5, but is {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, but is {self.top_p}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed must be a 64-bit integer, but is {self.seed}.")
        if not all(self.stop):
            raise InputError("A stop string is empty.", hint="Remove it.")


GREEDY = Sampling()


class LoadParams(TypedDict):
    """The parameters of ``load``; see ``client.Client``. If ``exact`` is ``None``, it is on unless the model runs on a GPU."""

    base: str
    slots: int
    queue: int
    exact: bool | None
    share_accelerator: bool


@dataclass(frozen=True)
class GenerateRequest:
    """The messages so far, the adapter (empty: the base model), tools for the template, and a JSON Schema for the answer.

    ``effort`` is an OpenAI reasoning effort, and ``variables`` are further variables of the chat template. Both are empty by default:
    an adapter then reasons as in its training, and the base model does not. A ``prompt``, text or token IDs, replaces ``messages``
    and is continued without the template.
    """

    id: str
    messages: tuple[Message, ...]
    adapter: str = ""
    sampling: Sampling = GREEDY
    tools: tuple[dict[str, Any], ...] = ()
    schema: Any = None
    effort: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "messages": [message.as_dict() for message in self.messages], "sampling": asdict(self.sampling)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GenerateRequest:
        """Parse a request. Raises ``InputError`` if it is malformed."""
        try:
            messages = tuple(_message(turn) for turn in record["messages"])
            sampling = Sampling(**{**record["sampling"], "stop": tuple(record["sampling"]["stop"])})
            return cls(
                str(record["id"]), messages, str(record["adapter"]), sampling, tuple(record["tools"]), record["schema"],
                str(record["effort"]), dict(record["variables"]), None if record["prompt"] is None else _prompt(record["prompt"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"Malformed request: {error!r}.") from error


@dataclass(frozen=True)
class EmbedRequest:
    """A request for the vectors of texts or lists of token IDs."""

    id: str
    inputs: tuple[Prompt, ...]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> EmbedRequest:
        """Parse a request. Raises ``InputError`` if it is malformed."""
        try:
            return cls(str(record["id"]), tuple(map(_prompt, record["inputs"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"Malformed request: {error!r}.") from error


@dataclass(frozen=True)
class Ready:
    """The base model is loaded. ``path`` describes its compute path; ``context`` is its window in tokens, and ``seconds`` the load time."""

    base: str
    fingerprint: str
    path: str
    context: int
    seconds: float


@dataclass(frozen=True)
class Accepted:
    """A request is queued behind ``ahead`` others and will be sampled with ``seed``."""

    id: str
    prompt_tokens: int
    ahead: int
    seed: int


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer, or of the reasoning before it. It contains only complete characters."""

    id: str
    text: str
    reasoning: bool = False


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the request's tools. ``arguments`` is a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Done:
    """An answer is complete.

    Times in seconds: ``waited`` for a slot, ``first`` from then to the first token, ``seconds`` in total. ``cached`` prompt tokens
    came from the cache; ``alone`` tokens were computed outside the batch, because their logits were too close to call.
    ``reasoning_tokens`` of the ``tokens`` came before the answer.
    """

    id: str
    ended: FinishReason
    prompt_tokens: int
    cached: int
    tokens: int
    alone: int
    waited: float
    first: float
    seconds: float
    reasoning_tokens: int = 0

    @property
    def speed(self) -> float:
        """Tokens per second after the first."""
        rest = self.seconds - self.waited - self.first
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Embedded:
    """The unit vector of each input, as base64 of little-endian float32, and the number of ``tokens`` in all inputs."""

    id: str
    vectors: tuple[str, ...]
    tokens: int


@dataclass(frozen=True)
class Failed:
    """A request failed, or the whole process if ``id`` is empty.

    ``kind``: ``input`` invalid, ``adapter`` unavailable, queue ``full``, process ``gone``, or ``fault``: a bug.
    """

    id: str
    kind: FailureKind
    error: MlxtuneError

    @classmethod
    def of(cls, id: str, error: MlxtuneError, kind: FailureKind | None = None) -> Failed:
        """Return ``error`` as an event; the default kind is ``input`` or ``fault``."""
        return cls(id, kind or ("input" if isinstance(error, InputError) else "fault"), error)


Event = Ready | Accepted | Piece | ToolCall | Done | Embedded | Failed
_EVENTS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


def event_to_json(event: Event) -> dict[str, Any]:
    """Return ``event`` as a JSON object."""
    record = {"event": type(event).__name__.lower(), **vars(event)}
    return record | {"error": error_to_json(event.error)} if isinstance(event, Failed) else record


def event_from_json(record: Mapping[str, Any]) -> Event:
    """Rebuild an event."""
    kind = _EVENTS[record["event"]]
    values = {item.name: record[item.name] for item in fields(kind)}
    return kind(**values | ({"error": error_from_json(values["error"])} if kind is Failed else {}))


def _prompt(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(map(int, value))


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return Message(turn["role"], turn["content"], extra)
