"""Client for the model process. Does not import mlx.

    with Client("smollm2-135m", workspace) as client:
        ready = client.ready()
        for event in client.ask([Message("user", "Hello")], adapter="20261124-1412-shop"):
            ...

Events arrive as an iterator in the calling thread or, with ``on_event``, as calls in the client's own thread, which must return
quickly. All methods may be called from any thread.
"""

import itertools
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import ChildProcess, Reply
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import Closeable
from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Message
from mlxtune.serving import protocol
from mlxtune.serving.protocol import GREEDY, Done, Embedded, EmbedRequest, Event, Failed, GenerateRequest, Ready, Sampling

EventListener = Callable[[Event], None]


class PendingAnswer(Iterator[Event]):
    """An answer in progress. Iterate over its events; the last is ``Done``, ``Embedded``, or ``Failed``."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ended = False

    def __next__(self) -> Event:
        """Wait for the next event. After Ctrl-C, you can call it again to wait for a canceled answer to end."""
        if self._ended:
            raise StopIteration
        event = self._events.get()
        self._ended = isinstance(event, Done | Embedded | Failed)
        return event

    def cancel(self) -> None:
        """Cancel the answer; its last event still arrives."""
        self._cancel()


class Client(Closeable):
    """Starts the model process for ``base`` in the folder ``workspace`` without waiting. Close it, or use it in a ``with`` block.

    ``share_accelerator`` runs it even if a training run holds the accelerator; ``exact`` makes greedy and seeded answers independent
    of other requests, which is the default except on a GPU; ``slots`` and ``queue`` are passed to the engine. ``on_event`` gets the
    events that belong to no request: ``Ready``, or ``Failed`` with an empty ID if the process cannot start or ends.
    """

    def __init__(
        self, base: str, workspace: Path = Path(), *, share_accelerator: bool = False, exact: bool | None = None, slots: int = 8, queue: int = 64,
        on_event: EventListener = lambda event: None,
    ) -> None:  # fmt: skip
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._ready: Future[Ready] = Future()
        self._error: MlxtuneError | None = None
        self._closing = False
        self._child = ChildProcess(
            "mlxtune.serving.worker", name="The model process", hint="Start it again.", cwd=workspace, on_exit=self._fail
        )
        params: protocol.LoadParams = {
            "base": base, "slots": slots, "queue": queue, "exact": exact, "share_accelerator": share_accelerator,
        }  # fmt: skip
        self._child.request("load", params, self._on_load)

    def ready(self) -> Ready:
        """Wait until the base model is loaded. Raises any error from loading, and ``MachineError`` if the process died."""
        return self._ready.result()

    def ask(
        self, messages: Sequence[Message], *, adapter: str = "", sampling: Sampling = GREEDY, schema: Any = None, effort: str = "",
        on_event: EventListener | None = None,
    ) -> PendingAnswer:  # fmt: skip
        """Ask the base model or an adapter, as :meth:`send` does."""
        request = GenerateRequest("", tuple(messages), adapter, sampling, schema=schema, effort=effort)
        return self.send(request, on_event=on_event)

    def send(self, request: GenerateRequest | EmbedRequest, *, on_event: EventListener | None = None) -> PendingAnswer:
        """Send ``request``. Returns immediately, even before the base is loaded; answers are generated in parallel."""
        id = str(next(self._ids))
        answer = PendingAnswer(lambda: self._child.notify("cancel", {"id": id}))
        listener = on_event or answer._events.put

        def on_reply(reply: Reply) -> None:
            is_error = reply.kind == "error"
            listener(Failed(id, self._error or reply.value) if is_error else protocol.event_from_json(reply.value))

        self._child.request(
            "embed" if isinstance(request, EmbedRequest) else "generate", to_json(replace(request, id=id)), on_reply
        )
        return answer

    @property
    def alive(self) -> bool:
        """Whether the process has neither failed nor ended."""
        return self._error is None

    def close(self) -> None:
        """End the process and free the accelerator."""
        self._closing = True
        self._child.close()

    def _on_load(self, reply: Reply) -> None:
        if reply.kind == "error":
            self._fail(reply.value)
            return
        event = protocol.event_from_json(reply.value)
        assert isinstance(event, Ready)
        self._ready.set_result(event)
        self._on_event(event)

    def _fail(self, error: MlxtuneError) -> None:
        if self._error is not None:  # the process ends after it reported an error
            return
        self._error = error
        if not self._ready.done():
            self._ready.set_exception(error)
        if not self._closing:
            self._on_event(Failed("", error))
