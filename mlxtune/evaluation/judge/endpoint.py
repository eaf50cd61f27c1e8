"""A model at an OpenAI-compatible endpoint, with a cost cap, safe retries, and a key that is never displayed."""

import importlib
import ipaddress
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.arms import ENDPOINT, OPTIMIZED
from mlxtune.recipe import Endpoint, Recipe

OFFICIAL = "https://api.openai.com/v1"
KEY, OFFICIAL_KEY = "MLXTUNE_ENDPOINT_KEY", "OPENAI_API_KEY"
REPLY_TOKENS = 1024  # limit for a judge's reply, including reasoning
TIMEOUT = 120.0  # seconds
TRIES = 5
MAX_REPLY_BYTES = 16 * 2**20  # far more than a reply of REPLY_TOKENS
WAIT = 60.0  # maximum seconds between two attempts
_MAX_TOKENS = 10**9  # a larger token count must be an error
_BEFORE_WORK = ("ConnectError", "ConnectTimeout")  # HTTP client errors that mean nothing was sent


Messages = Sequence[dict[str, Any]]  # chat messages in OpenAI's format
Tools = Sequence[dict[str, Any]]  # function descriptions in OpenAI's format


AskJudge = Callable[[list[dict[str, str]]], str]
"""A function that sends chat messages to a judge and returns the text of its reply.

It raises :class:`ReplyLost` if no reply arrived to a question that may have been processed.
"""


class ReplyLost(Exception):
    """A question was sent, but no reply arrived. It may have been billed, so it is not asked again."""


class _ReplyRefused(Exception):
    """The reply is compressed or too large to be read. The text continues a sentence about the reply."""


def _limit_size(response: Any) -> None:
    """Make reading ``response`` raise ``_ReplyRefused`` instead of filling the memory.

    Replies are requested uncompressed, because a small compressed one can expand to gigabytes.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _ReplyRefused("is compressed")
    library = importlib.import_module(type(response).__module__.partition(".")[0])  # openai's HTTP library, by version

    class LimitedStream(library.SyncByteStream):  # type: ignore[name-defined]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            count = 0
            for block in self._stream:
                if (count := count + len(block)) > MAX_REPLY_BYTES:
                    raise _ReplyRefused(f"is larger than {MAX_REPLY_BYTES / 2**20:.0f} MB")
                yield block

        def close(self) -> None:
            self._stream.close()

    response.stream = LimitedStream(response.stream)


class CostCapReached(MlxtuneError):
    """The next question could exceed the cost cap. Replies so far are saved."""

    exit_code = 3


class CostMeter:
    """A thread-safe meter with prices in dollars per million tokens, the amount ``spent``, and its ``cap`` (``None`` = no limit).

    Before a question is sent, its worst-case cost and those of all questions in flight must fit under the cap. A prompt has at most
    one token per byte, and a reply at most ``reply_tokens``.
    """

    def __init__(
        self, price_in: float = 0.0, price_out: float = 0.0, cap: float | None = None, reply_tokens: int = REPLY_TOKENS
    ) -> None:
        self.price_in, self.price_out, self.cap, self.reply_tokens = price_in, price_out, cap, reply_tokens
        self.spent, self._reserved = 0.0, 0.0
        self._lock, self._local = threading.Lock(), threading.local()

    @property
    def own_spent(self) -> float:
        """Dollars spent by the calling thread."""
        return float(getattr(self._local, "spent", 0.0))

    def worst_case(self, messages: Messages, tools: Tools = ()) -> float:
        """Return the highest possible cost of asking ``messages``, with 16 tokens per message for the chat template."""
        tokens = sum(len(message["content"].encode("utf-8", "surrogatepass")) + 16 for message in messages)
        more = [{key: value for key, value in message.items() if key not in ("role", "content")} for message in messages]
        tokens += sum(len(json.dumps(item)) for item in (*filter(None, more), *tools))
        return (tokens * self.price_in + self.reply_tokens * self.price_out) / 1e6

    @contextmanager
    def reserve(self, worst: float) -> Iterator[None]:
        """Reserve ``worst``, a worst-case cost, during the call. Raises ``CostCapReached`` if it exceeds the cap."""
        with self._lock:
            if self.cap is not None and self.spent + self._reserved + worst > self.cap:
                raise CostCapReached(
                    f"${self.spent:.4f} of ${self.cap:.2f} has been spent, and the next question could cost ${worst:.4f}.",
                    hint="Replies are saved. Run again with a higher cap to continue.",
                )
            self._reserved += worst
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= worst

    def charge(self, worst: float, usage: Any = None) -> None:
        """Add the cost of a reply: the reported usage, or else the ``worst`` case."""
        cost = worst
        match usage:
            case {"prompt_tokens": int(prompt), "completion_tokens": int(reply)} if 0 <= prompt <= _MAX_TOKENS >= reply >= 0:
                cost = (prompt * self.price_in + reply * self.price_out) / 1e6
        with self._lock:
            self.spent += cost
        self._local.spent = self.own_spent + cost


def host(url: str) -> str:
    """Return the host in an endpoint's ``url``. Raises ``InputError`` if the URL has secrets or lacks encryption."""
    try:
        parts = urlsplit(url if url.isascii() and url.isprintable() else "")
        _ = parts.port  # raises if it is no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("The endpoint's URL must start with https:// (or http:// on this machine).")
    if parts.username or parts.password or parts.query or parts.fragment:
        hint = "Set the key in an environment variable."
        raise InputError("The endpoint's URL must not contain credentials, a query or a fragment.", hint=hint)
    if parts.scheme == "http" and not is_local(parts.hostname):
        raise InputError(f"The rows and the key would be sent to {one_line(parts.hostname, 60)} unencrypted.", hint="Use https://.")
    return parts.hostname


def is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def api_key(url: str, variable: str = "", environment: Mapping[str, str] = os.environ) -> str:
    """Return the key from the environment: ``variable``, or OpenAI's for its endpoint and :data:`KEY` for all others.

    Raises ``InputError`` if a required key is missing.
    """
    if variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # not shown, since it may be the key
        hint = f"Run: export {KEY}=…, and omit key_env."
        raise InputError("key_env must be the name of an environment variable, not the key itself.", hint=hint)
    name = variable or (OFFICIAL_KEY if host(url) == host(OFFICIAL) else KEY)
    secret, shown = environment.get(name, "").strip(), one_line(name, 60)
    if not secret and (variable or not is_local(host(url))):
        raise InputError(f"The environment variable {shown} is not set.", hint=f"Run: export {shown}=…, then try again.")
    return secret


def require_budget(url: str, price_in: float, price_out: float, cap: float | None) -> None:
    """Raise ``InputError`` if an endpoint on another machine has no prices or no cap."""
    if not is_local(host(url)) and not (cap and price_in and price_out):
        hint = "Set price_in and price_out (dollars per million tokens) and cap: as options, or in [evaluation.endpoints]."
        raise InputError(f"{host(url)} costs money, so it needs prices and a cap.", hint=hint)


@dataclass(frozen=True)
class Completion:
    """A reply, why it ended, its tool calls in OpenAI's format, its tokens if reported, and the seconds from request to reply."""

    text: str
    ended: str
    calls: tuple[dict[str, Any], ...]
    tokens: int | None  # with those of the reasoning
    thought_tokens: int
    seconds: float
    prompt_tokens: int | None = None


class EndpointClient:
    """A model over HTTP. The key is redacted from every reply and every error message."""

    def __init__(self, url: str, model: str, secret: str, meter: CostMeter, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises ``InputError`` if the ``judge`` extra is not installed."""
        try:
            import openai
        except ImportError as error:
            hint = "Run: pip install 'mlxtune[judge]'"
            raise InputError("A model at an endpoint needs the openai package.", hint=hint) from error
        self._name, self._model, self._secret, self._meter, self._sleep = host(url), model, secret, meter, sleep
        # No redirect or proxy may send rows elsewhere.
        client = openai.DefaultHttpxClient(
            follow_redirects=False, trust_env=not is_local(self._name), headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_limit_size]},
        )  # fmt: skip
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=url, api_key=secret or "none", organization="", project="", max_retries=0, timeout=TIMEOUT, http_client=client
        )  # fmt: skip
        self._create: Callable[..., Any] = self._client.chat.completions.with_raw_response.create
        # OpenAI's newer models reject max_tokens and temperature; older models and local servers support nothing else.
        self._options: dict[str, Any] = (
            {"max_completion_tokens": meter.reply_tokens}
            if self._name == host(OFFICIAL)
            else {"max_tokens": meter.reply_tokens, "temperature": 0.0}
        )

    def complete(self, messages: Messages, tools: Tools = (), *, seed: int = 0) -> Completion:
        """Return the reply to ``messages``: the most likely one or, with a ``seed`` other than 0, one sampled at temperature 1.

        A question is retried only if the endpoint certainly did no work (429, 503, no connection). After any other failure, it may
        have been billed: its worst-case cost is charged and :class:`ReplyLost` is raised. Raises ``InputError`` if the endpoint
        rejects the key, model or request, ``MachineError`` if it cannot be reached, and ``CostCapReached`` at the cap.
        """
        worst = self._meter.worst_case(messages, tools)
        with self._meter.reserve(worst):
            return self._ask(messages, tools, seed, worst)

    def ask(self, messages: Messages) -> str:
        """Return the text of the reply, as an :data:`AskJudge` does."""
        return self.complete(messages).text

    def _ask(self, messages: Messages, tools: Tools, seed: int, worst: float) -> Completion:
        content = [self._model, messages, *([tools] if tools else []), *([seed] if seed else [])]
        once = {"Idempotency-Key": sha256_json(content)}  # endpoints that support it bill a retry once
        options = self._options | ({"tools": list(tools)} if tools else {})
        if seed and "temperature" in options:
            options |= {"temperature": 1.0, "seed": seed}
        for attempt in range(1, TRIES + 1):
            start = time.perf_counter()
            try:
                reply = self._create(model=self._model, messages=messages, extra_headers=once, **options)
            except self._openai.APIStatusError as error:
                wait = self._retry_delay(error, worst)
            except _ReplyRefused as error:
                self._meter.charge(worst)
                raise ReplyLost(f"{self._name} sent a reply that {error}.") from None
            except self._openai.APIConnectionError as error:
                if type(error.__cause__).__name__ not in _BEFORE_WORK:
                    self._meter.charge(worst)
                    raise ReplyLost(f"{self._name} did not reply.") from None
                wait = 0.0
            except (self._openai.OpenAIError, ValueError) as error:  # an unreadable reply
                self._meter.charge(worst)
                raise ReplyLost(one_line(self._redact(str(error)), 300)) from None
            else:
                return self._completion(reply.content, worst, time.perf_counter() - start)
            if attempt < TRIES:
                self._sleep(min(WAIT, max(wait, 2.0 ** (attempt - 1))))
        raise MachineError(f"Cannot reach {self._name}.", hint="Run again to continue; replies are saved.")

    def _retry_delay(self, error: Any, worst: float) -> float:
        """Return the seconds to wait after a status that proves no work was done; raise for every other status."""
        status, text = int(error.status_code), one_line(self._redact(str(error.message)), 300)
        if status in (429, 503) and getattr(error, "code", None) != "insufficient_quota":
            with suppress(ValueError):
                return max(0.0, float(error.response.headers.get("retry-after", "")))
            return 0.0
        if status < 500 and status != 408:
            hint = "Check the model name, the API key and the URL."
            raise InputError(f"{self._name} rejected the request with status {status}: {text}", hint=hint) from None
        self._meter.charge(worst)
        raise ReplyLost(f"{self._name} replied with status {status}: {text}") from None

    def _completion(self, body: bytes, worst: float, seconds: float) -> Completion:
        try:
            reply = json.loads(self._redact(body.decode()))
        except (ValueError, RecursionError):
            reply = None
        usage = reply.get("usage") if isinstance(reply, dict) else None
        self._meter.charge(worst, usage)
        match reply:
            case {"choices": [{"message": dict(message)} as choice, *_]}:
                content, calls = message.get("content"), message.get("tool_calls")
            case _:
                raise ReplyLost(f"{self._name} sent something that is not a chat completion.")
        details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
        counts = (("prompt_tokens", usage), ("completion_tokens", usage), ("reasoning_tokens", details))
        found = (record.get(key) if isinstance(record, dict) else None for key, record in counts)
        prompt_tokens, tokens, thought_tokens = (count if isinstance(count, int) else None for count in found)
        return Completion(
            content if isinstance(content, str) else "", "length" if choice.get("finish_reason") == "length" else "stop",
            tuple(call for call in calls if isinstance(call, dict)) if isinstance(calls, list) else (),
            tokens, thought_tokens or 0, seconds, prompt_tokens,
        )  # fmt: skip

    def _redact(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text


def endpoint_arms(recipe: Recipe) -> dict[str, Endpoint]:
    """Return the endpoints that the recipe's arms use, by the name of the arm."""
    section = recipe.evaluation
    names = {arm: arm.removeprefix(ENDPOINT) for arm in section.arms if arm.startswith(ENDPOINT)}
    if OPTIMIZED in section.arms and section.optimizer:
        names[OPTIMIZED] = section.optimizer
    return {arm: section.endpoints[name] for arm, name in names.items()}


def remote_hosts(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the hosts other than this machine to which held-out prompts or, to optimize a prompt, training rows would be sent.

    With each comes the name of the variable of the recipe's choice whose value it gets, if any. Raises ``InputError`` for an unsafe URL.
    """
    hosts = {(host(one.url), one_line(one.key_env, 60)) for one in endpoint_arms(recipe).values()}
    return sorted(pair for pair in hosts if not is_local(pair[0]))


def list_hosts(hosts: Sequence[tuple[str, str]]) -> str:
    """Return ``hosts``, each with the name of the variable whose value it gets, as part of a sentence."""
    return "; ".join(f"{name}, with the key in {key}" if key else name for name, key in hosts)


def require_endpoints(recipe: Recipe, consent: str) -> None:
    """Raise ``InputError`` unless the recipe's endpoints have a key and, if they are not on this machine, a cap and consent."""
    for endpoint in endpoint_arms(recipe).values():
        api_key(endpoint.url, endpoint.key_env)
        require_budget(endpoint.url, endpoint.price_in, endpoint.price_out, endpoint.cap)
    if (hosts := remote_hosts(recipe)) and not consent:
        hint = "Consent with mlxtune eval --send, or leave the endpoint out of evaluation.arms."
        raise InputError(f"Rows will be sent to {list_hosts(hosts)}, which needs your consent.", hint=hint)
