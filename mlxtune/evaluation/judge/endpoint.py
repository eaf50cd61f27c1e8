"""A judge behind any OpenAI-compatible endpoint: a key that is never told, a cap on what it may cost, retries that bill once."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.judge import Lost

OFFICIAL = "https://api.openai.com/v1"
KEY, OFFICIAL_KEY = "MLXTUNE_JUDGE_KEY", "OPENAI_API_KEY"
REPLY_TOKENS = 1024  # reasoning included
TIMEOUT = 120.0  # seconds
TRIES = 5
WAIT = 60.0  # seconds, the most between two tries
_BEFORE_WORK = ("ConnectError", "ConnectTimeout")  # of the HTTP client: nothing was sent


class CapReached(MlxtuneError):
    """The next question could cost more than is left under the cap. What was asked is kept."""

    exit_code = 3


class Meter:
    """Money: prices in dollars per million tokens, what was ``spent``, and the ``cap`` on it (``None``: no limit).

    Before a question is sent its worst case must fit, beside those in the air: a prompt has at most one token a byte, a reply
    :data:`REPLY_TOKENS`. Several threads may spend.
    """

    def __init__(self, price_in: float = 0.0, price_out: float = 0.0, cap: float | None = None) -> None:
        self.price_in, self.price_out, self.cap = price_in, price_out, cap
        self.spent = 0.0
        self._held = 0.0
        self._lock = threading.Lock()
        self._mine = threading.local()

    @property
    def mine(self) -> float:
        """Dollars that the calling thread has spent."""
        return float(getattr(self._mine, "spent", 0.0))

    def worst(self, messages: list[dict[str, str]]) -> float:
        """Dollars that asking ``messages`` costs at most; 16 tokens a message are for the template around it."""
        tokens = sum(len(message["content"].encode("utf-8", "surrogatepass")) + 16 for message in messages)
        return (tokens * self.price_in + REPLY_TOKENS * self.price_out) / 1e6

    @contextmanager
    def holding(self, messages: list[dict[str, str]]) -> Iterator[None]:
        """Keep the worst case of ``messages`` aside while they are asked. Raises ``CapReached`` when that could break the cap."""
        worst = self.worst(messages)
        with self._lock:
            if self.cap is not None and self.spent + self._held + worst > self.cap:
                raise CapReached(
                    f"${self.spent:.4f} of ${self.cap:.2f} are spent, and the next question could cost ${worst:.4f}.",
                    mend="What was asked is kept. Run it again with a higher --cap to go on.",
                )
            self._held += worst
        try:
            yield
        finally:
            with self._lock:
                self._held -= worst

    def charge(self, messages: list[dict[str, str]], usage: Any = None) -> None:
        """Add what was used; the worst case where the endpoint does not say."""
        match getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None):
            case int(prompt), int(reply) if prompt >= 0 and reply >= 0:
                cost = (prompt * self.price_in + reply * self.price_out) / 1e6
            case _:
                cost = self.worst(messages)
        with self._lock:
            self.spent += cost
        self._mine.spent = self.mine + cost


def host(url: str) -> str:
    """The host of an endpoint's ``url``. Raises ``InputError`` for a URL that carries secrets, or would in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("The judge's URL must begin with https:// (or http:// on this machine).")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("The judge's URL holds more than an address.", mend=f"Keys belong in the environment: {KEY}.")
    if parts.scheme == "http" and not is_local(parts.hostname):
        raise InputError(f"{one_line(parts.hostname, 60)} would get rows and key in the clear.", mend="Use https://.")
    return parts.hostname


def is_local(name: str) -> bool:
    """Whether a host is this machine, so that nothing leaves it."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def key(url: str, variable: str = "", environment: Mapping[str, str] = os.environ) -> str:
    """The endpoint's key from the environment: ``variable``, else the usual one. Raises ``InputError`` where a host needs one."""
    if variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # and it is not said: it may be the key
        raise InputError(
            "--key-env takes the name of an environment variable, not a key.", mend=f"export {KEY}=… and leave it out."
        )
    name = variable or (OFFICIAL_KEY if host(url) == host(OFFICIAL) else KEY)
    found = environment.get(name, "").strip()
    if not found and (variable or not is_local(host(url))):
        raise InputError(f"The environment has no {one_line(name, 60)}.", mend=f"export {one_line(name, 60)}=… and run it again.")
    return found


class Endpoint:
    """An ``Asker`` over HTTP. Every text that comes back, errors too, is freed of the key before anyone sees it."""

    def __init__(self, url: str, model: str, secret: str, meter: Meter, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises ``InputError`` where the extra is not installed."""
        try:
            import openai
        except ImportError as error:
            raise InputError("A judge at an endpoint needs openai.", mend="pip install 'mlxtune[judge]'") from error
        self._name, self._model, self._secret, self._meter, self._sleep = host(url), model, secret, meter, sleep
        local = is_local(self._name)
        client = openai.DefaultHttpxClient(
            follow_redirects=False, trust_env=not local
        )  # no redirect, no proxy takes rows elsewhere
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=url, api_key=secret or "none", organization="", project="", max_retries=0, timeout=TIMEOUT, http_client=client
        )  # fmt: skip
        self._create: Callable[..., Any] = self._client.chat.completions.create
        # OpenAI's newer models refuse max_tokens and a temperature; older and local servers know nothing else.
        self._options: dict[str, Any] = (
            {"max_completion_tokens": REPLY_TOKENS}
            if self._name == host(OFFICIAL)
            else {"max_tokens": REPLY_TOKENS, "temperature": 0.0}
        )

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """The reply to ``messages``.

        Asks again only after an answer that proves no work was done (429, 503, no connection). After anything else the question
        may be on the bill: it is charged at its worst and :class:`Lost` is raised. Raises ``InputError`` when the endpoint
        refuses key, model or request, ``MachineError`` when it cannot be reached, ``CapReached`` at the cap.
        """
        with self._meter.holding(messages):
            return self._ask(messages)

    def _ask(self, messages: list[dict[str, str]]) -> str:
        once = {"Idempotency-Key": sha256_json([self._model, messages])}  # for endpoints that know it: a try again bills once
        for attempt in range(1, TRIES + 1):
            try:
                reply = self._create(model=self._model, messages=messages, extra_headers=once, **self._options)
            except self._openai.APIStatusError as error:
                wait = self._refused(error, messages)
            except self._openai.APIConnectionError as error:
                if type(error.__cause__).__name__ not in _BEFORE_WORK:
                    self._meter.charge(messages)
                    raise Lost(f"{self._name} did not answer.") from None
                wait = 0.0
            except (self._openai.OpenAIError, ValueError) as error:  # a reply that is none
                self._meter.charge(messages)
                raise Lost(one_line(self._free(str(error)), 300)) from None
            else:
                return self._read(reply, messages)
            if attempt < TRIES:
                self._sleep(min(WAIT, max(wait, 2.0 ** (attempt - 1))))
        raise MachineError(f"{self._name} cannot be reached.", mend="What was asked is kept. Run it again to go on.")

    def _refused(self, error: Any, messages: list[dict[str, str]]) -> float:
        """Seconds that an endpoint which did no work asks to wait; raises for every other status."""
        status, said = int(error.status_code), one_line(self._free(str(error.message)), 300)
        if status in (429, 503) and getattr(error, "code", None) != "insufficient_quota":
            return _seconds(error.response.headers.get("retry-after", ""))
        if status < 500 and status != 408:
            raise InputError(
                f"{self._name} refused with {status}: {said}", mend="Check the model's name, the key and the URL."
            ) from None
        self._meter.charge(messages)
        raise Lost(f"{self._name} answered {status}: {said}") from None

    def _read(self, reply: Any, messages: list[dict[str, str]]) -> str:
        self._meter.charge(messages, getattr(reply, "usage", None))
        choices = getattr(reply, "choices", None)
        text = choices[0].message.content if choices else None
        return self._free(text) if isinstance(text, str) else ""

    def _free(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
