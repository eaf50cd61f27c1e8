"""Requests to the model process and its events. Does not import mlx, because the CLI and the app use it.

They are sent over the protocol of :mod:`mlxtune.core.child_process`. ``client.py`` sends a ``load`` request, answered by
:class:`Ready`, then ``generate`` requests: progress is :class:`Accepted`, :class:`Piece` and :class:`ToolCall`, the result is
:class:`Done`. The result of an ``embed`` request is :class:`Embedded`. An error reply becomes :class:`Failed`.
"""

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

from mlxtune.core.errors import InputError, MachineError, MlxtuneError, ModelError
from mlxtune.core.gpu_errors import gpu_error
from mlxtune.data.rows import Message

SWITCH_INTERVAL = 0.0002  # seconds after which a thread that reads a long request lets those of other requests run
Prompt = str | tuple[int, ...]
FinishReason = Literal["stop", "length", "cancelled"]


class QueueFullError(MachineError):
    """Too many requests are waiting."""


class AdapterUnavailableError(ModelError):
    """The adapter of a request cannot be found or loaded."""


class SamplingError(InputError):
    """The sampling parameter ``name`` has an invalid value; ``problem`` says what is required of it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


def too_long(what: str, tokens: int, context: int, about: str = "") -> InputError:
    return InputError(f"{what} has {about}{tokens:,} tokens, but the model's context is {context:,} tokens.", hint="Shorten it.")


@dataclass(frozen=True)
class Sampling:
    max_tokens: int = 1024  # the answer is truncated after them
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int | None = None  # the same seed gives the same answer; None picks one at random
    stop: tuple[str, ...] = ()  # strings that end the answer and are not part of it

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise SamplingError("max_tokens", f"must be at least 1, but is {self.max_tokens}.")
        if not 0 <= self.temperature <= 5:
            raise SamplingError("temperature", f"must be from 0 to 5, but is {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise SamplingError("top_p", f"must be above 0 and at most 1, but is {self.top_p}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise SamplingError("seed", f"must be a 64-bit integer, but is {self.seed}.")
        if not all(self.stop):
            raise SamplingError("stop", "must not contain an empty string.")


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
    """A request for an answer. By default, an adapter reasons as in its training, and the base model does not."""

    id: str = ""  # set when it is sent
    messages: tuple[Message, ...] = ()
    adapter: str = ""  # empty for the base model
    sampling: Sampling = GREEDY
    tools: tuple[dict[str, Any], ...] = ()  # for the template
    schema: Any = None  # a JSON Schema for the answer
    effort: str = ""  # an OpenAI reasoning effort
    variables: dict[str, Any] = field(default_factory=dict)  # further variables of the chat template
    prompt: Prompt | None = None  # text or token IDs to continue without the template; replaces the messages


@dataclass(frozen=True)
class EmbedRequest:
    id: str
    inputs: tuple[Prompt, ...]


@dataclass(frozen=True)
class Ready:
    """The base model is loaded."""

    base: str
    fingerprint: str
    path: str  # describes the compute path
    context: int  # window in tokens
    seconds: float  # load time
    longest_token: int  # characters


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
    """An answer is complete. Times are in seconds."""

    id: str
    ended: FinishReason
    prompt_tokens: int
    cached: int  # prompt tokens that came from the cache
    tokens: int
    alone: int  # tokens that were computed outside the batch, because their logits were too close to call
    waited: float  # for a slot
    first: float  # from then to the first token
    seconds: float  # in total
    reasoning_tokens: int = 0  # of the tokens, those before the answer

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
    """A request failed, or the whole process if ``id`` is empty. An error that is neither invalid input nor the machine's is a bug."""

    id: str
    error: MlxtuneError


Event = Ready | Accepted | Piece | ToolCall | Done | Embedded | Failed
_EVENTS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


def event_to_json(event: Event) -> dict[str, Any]:
    return {"event": type(event).__name__.lower(), **vars(event)}


def event_from_json(record: Mapping[str, Any]) -> Event:
    return _EVENTS[record["event"]](**{name: value for name, value in record.items() if name != "event"})


def known_error(error: Exception) -> MlxtuneError:
    """Return ``error``, or, if it is unexpected, write it to the log and return one with a message for users."""
    if isinstance(error, MlxtuneError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    internal = MlxtuneError(f"{type(error).__name__}: {error}", hint="See the log of the server.")
    return gpu_error(str(error)) or internal
