"""Helpers for the serving tests: adapters with random weights, an engine that answers requests and stops, and a server."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import openai

from mlxtune.data.rows import Message
from mlxtune.models import lora
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection
from mlxtune.serving.client import Client
from mlxtune.serving.engine import Engine
from mlxtune.serving.http_server import listen, run
from mlxtune.serving.model_host import ModelHost
from mlxtune.serving.protocol import Accepted, Done, Embedded, Event, Failed, GenerateRequest, Piece, Sampling
from mlxtune.serving.server import Server

SECTIONS = {
    "all": AdapterSection(rank=4, alpha=8),
    "attention": AdapterSection(rank=2, alpha=4, targets="attention", layers=1),
    "embed": AdapterSection(rank=3, alpha=3, targets=["q_proj", "embed_tokens"]),
    "dora": AdapterSection(rank=4, alpha=8, kind="dora", targets=["v_proj", "down_proj"]),
    "wide": AdapterSection(rank=16, alpha=16, targets=["up_proj", "gate_proj"]),
}

NAMES, SLOTS, QUEUE = ("tiny", "all", "wide", "dora"), 8, 40  # of the server that the tests share: its models, and its limits

# A JSON Schema for an answer of a random model, and its only key.
SURE = {
    "type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"], "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}  # fmt: skip

# What a model says that calls a function.
CALL = '{"name": "track", "arguments": {"order": "LF-7"}}'
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}{% set tool_call = tool_call.function %}"
    "<tool_call>{{ tool_call.name }}: {{ tool_call.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>{% endif %}{% endif %}"
)
SCRIPT = {
    "\n": "<think>", "<think>": "Hm.", "Hm.": "</think>", "</think>": "Sure: ", "Sure: ": "<tool_call>",
    "<tool_call>": CALL, CALL: "</tool_call>", "</tool_call>": "<|im_end|>",
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {"order": {}}}}}]


def write_adapter(base: Path | str, folder: Path, section: AdapterSection, seed: int, strength: float = 0.2) -> Path:
    """Write an adapter with random weights for ``base``."""
    model = load(resolve(str(base))).model
    config = lora.add(model, section, seed)
    mx.random.seed(seed)
    arrays = {
        name: array * 1.1 if name.endswith(".m") else mx.random.normal(array.shape) * strength
        for name, array in lora.adapter_arrays(model).items()
    }
    lora.save(folder, arrays, config | {"model": str(base)})
    return folder


class EventLog:
    """Events by request."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self.ended = 0

    def __call__(self, event: Event) -> None:
        self.events.setdefault(event.id, []).append(event)
        self.ended += isinstance(event, Done | Embedded | Failed)

    def last(self, id: str) -> Any:
        return self.events[id][-1]

    def accepted(self, id: str) -> Accepted:
        (accepted,) = (event for event in self.events[id] if isinstance(event, Accepted))
        return accepted

    def text(self, id: str) -> str:
        return "".join(event.text for event in self.events[id] if isinstance(event, Piece))


def make_request(
    id: str, text: str, adapter: str = "", tools: Sequence[Any] = (), schema: Any = None, **sampling: Any
) -> GenerateRequest:
    return GenerateRequest(id, (Message("user", text),), adapter, Sampling(**{"max_tokens": 24, **sampling}), tuple(tools), schema)


def listen_to(engine: Engine, count: int, on_event: Callable[[Event, EventLog], Any] = lambda event, log: None) -> EventLog:
    """Return the log of ``engine``, which closes it after ``count`` requests. ``on_event`` is called after each event."""
    log = EventLog()

    def listen(event: Event) -> None:
        log(event)
        on_event(event, log)
        if log.ended == count:
            engine.close()

    engine._on_event = listen
    return log


def run_requests(
    engine: Engine, requests: Sequence[GenerateRequest], on_event: Callable[[Event, EventLog], Any] = lambda event, log: None
) -> EventLog:
    """Submit ``requests``, run ``engine`` until all are finished, and return the events."""
    log = listen_to(engine, len(requests), on_event)
    for request in requests:
        engine.submit(request)
    engine.run()
    return log


@contextmanager
def serve_model(
    workspace: Path, model: str, keep_alive: float = 0.0, *, slots: int = 8, queue: int = 8
) -> Iterator[SimpleNamespace]:
    """Serve ``model`` and its adapters on a free loopback port, in this process; the model is in its own process."""

    def start() -> Client:
        return Client(model, workspace, share_accelerator=True, exact=True, slots=slots, queue=queue)

    with ModelHost(start, keep_alive) as host:
        server = Server(host, workspace, slots=slots, queue=queue)
        with listening(server) as port:
            yield SimpleNamespace(server=server, client=host._client, port=port, url=f"http://127.0.0.1:{port}/v1")


@contextmanager
def listening(server: Server, token: str = "") -> Iterator[int]:
    """Run ``server`` in a thread, and return its port."""
    with listen("127.0.0.1", 0) as socket:
        started: list[Any] = []
        thread = threading.Thread(target=run, args=(server.app("127.0.0.1", token), socket, started.append))
        thread.start()
        yield socket.getsockname()[1]
        started[0].should_exit = True
        thread.join(20)


def openai_api(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


@contextmanager
def openai_client(workspace: Path, model: str, keep_alive: float = 0.0) -> Iterator[openai.OpenAI]:
    """Serve ``model`` and its adapters, and connect to the server."""
    with serve_model(workspace, model, keep_alive) as served, openai_api(served.url) as api:
        yield api
