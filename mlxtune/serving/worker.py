"""The model process: ``python -m mlxtune.serving.worker``, started by ``client.py``.

It finds adapters in its working directory, and exits when its standard input is closed. Unless ``share_accelerator`` is set, it holds the
accelerator, and does not start while a run holds it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.adapters import library
from mlxtune.core.child_process import Channel, Request, run_session
from mlxtune.core.errors import MachineError
from mlxtune.core.json_fields import from_json
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.runs.locks import accelerator_lease
from mlxtune.serving import protocol

if TYPE_CHECKING:
    from mlxtune.serving.engine import Engine

CLOSE_TIMEOUT = 5.0  # seconds that the current step may take once the client is gone
LONG = 2**16  # characters of a request that is tokenized in a thread of its own, so that others need not wait


@dataclass
class ModelProcess:
    """Passes requests to the engine from a separate thread, so that the thread that owns MLX never waits for input."""

    engine: Engine | None = None
    _requests: dict[str, Request] = field(default_factory=dict)
    _canceled: set[str] = field(default_factory=set)  # a long one may not have been submitted yet

    def run(self, load_request: Request, params: protocol.LoadParams, channel: Channel) -> None:
        """Load the base model and answer until the client is gone. Raises ``ModelError`` if it cannot be loaded."""
        source = resolve(params["base"])
        from mlxtune.models.load import load, on_gpu  # these import mlx, which must be loaded after the BLAS
        from mlxtune.serving.engine import Engine

        loaded = load(source)
        workspace, exact = Path.cwd(), params["exact"]
        self.engine = engine = Engine(
            loaded, lambda name: library.find_compatible(workspace, name, source.fingerprint), self._send,
            slots=params["slots"], queue=params["queue"], exact=not on_gpu() if exact is None else exact,
        )  # fmt: skip
        longest = max(map(len, loaded.tokenizer.get_vocab()))
        ready = protocol.Ready(source.name, source.fingerprint, loaded.description, engine.context, loaded.seconds, longest)
        load_request.result(protocol.event_to_json(ready))
        threading.Thread(target=self._read, args=(channel, engine), name="requests", daemon=True).start()
        engine.run()

    def on_close(self) -> None:
        """End the process after the current step, or immediately if it is still loading."""
        if self.engine:
            self.engine.close()
            time.sleep(CLOSE_TIMEOUT)
        os._exit(0)

    def _read(self, channel: Channel, engine: Engine) -> None:
        with ThreadPoolExecutor(1, "long requests") as executor:
            while request := channel.receive():
                id = str(request.params.get("id"))
                if request.method == "cancel":
                    if id in self._requests:
                        self._canceled.add(id)
                    engine.cancel(id)
                    continue
                self._requests[id] = request
                if request.size > LONG:
                    executor.submit(self._submit, id, request, engine)
                else:
                    self._submit(id, request, engine)

    def _submit(self, id: str, request: Request, engine: Engine) -> None:
        try:
            if request.method == "embed":
                engine.submit_embedding(from_json(protocol.EmbedRequest, request.params))
            else:
                engine.submit(from_json(protocol.GenerateRequest, request.params))
        except Exception as error:
            self._send(protocol.Failed(id, protocol.known_error(error)))
        if id in self._canceled:
            engine.cancel(id)

    def _send(self, event: protocol.Event) -> None:
        if isinstance(event, protocol.Failed | protocol.Done | protocol.Embedded):
            self._canceled.discard(event.id)
        match event:
            case protocol.Failed():
                self._requests.pop(event.id).error(event.error)
            case protocol.Done() | protocol.Embedded():
                self._requests.pop(event.id).result(protocol.event_to_json(event))
            case protocol.Accepted() | protocol.Piece() | protocol.ToolCall():
                self._requests[event.id].progress(protocol.event_to_json(event))


def main() -> int:
    sys.setswitchinterval(protocol.SWITCH_INTERVAL)
    process = ModelProcess()
    channel = Channel(process.on_close)

    def session(load_request: Request) -> None:
        blas.preload()
        params: protocol.LoadParams = load_request.params  # type: ignore[assignment]
        with ExitStack() as stack:
            if not params["share_accelerator"]:
                try:
                    stack.enter_context(accelerator_lease("chat", Path.cwd()))
                except MachineError as error:
                    hint = f"With --share-accelerator, both run, more slowly. {error.hint}"
                    raise MachineError(error.message, hint=hint) from error
            process.run(load_request, params, channel)

    return run_session(channel, session)


if __name__ == "__main__":
    sys.exit(main())
