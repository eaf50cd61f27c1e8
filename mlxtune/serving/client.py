"""A face's end of the process that computes. No mlx here.

    with Client("smollm2-135m", workspace) as client:
        ready = client.ready()
        for event in client.ask([Message("user", "Hello")], adapter="20261124-1412-shop"):
            ...

A question's events arrive as an iterator in the asking thread, or, with ``tell``, as calls in the client's own thread, which must
return at once. All methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mlxtune.core.errors import MachineError
from mlxtune.core.text import one_line
from mlxtune.data.rows import Message
from mlxtune.serving.protocol import GREEDY, Ask, Done, Event, Failed, Ready, Sampling, ask_line, parse_event

Tell = Callable[[Event], None]

_WORKER = "mlxtune.serving.worker"
_PATIENCE = 10.0  # seconds the process may take to end once it was let go


class Answer:
    """What comes of a question: iterate over its events; the last is ``Done`` or ``Failed``."""

    def __init__(self, id: str, cancel: Callable[[str], None]) -> None:
        self.id = id
        self._cancel = cancel
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._over = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Wait for the next event. A wait that Ctrl-C ended can be begun again, to hear how a cancelled answer ends."""
        if self._over:
            raise StopIteration
        event = self._events.get()
        self._over = isinstance(event, Done | Failed)
        return event

    def cancel(self) -> None:
        """Ask for no more of it; its last event is still to come."""
        self._cancel(self.id)


class Client:
    """Starts the process for ``base`` in the folder ``workspace`` and returns at once; to be closed, or used in a ``with``.

    ``beside`` lets it run though a training run has the accelerator; ``exact`` makes greedy and seeded answers independent of who else
    asks; ``slots`` and ``queue`` are the engine's. ``tell`` hears what concerns no single question: ``Ready``, or ``Failed`` with an
    empty id when the process cannot start or ended.
    """

    def __init__(
        self, base: str, workspace: Path = Path(), *, beside: bool = False, exact: bool = False, slots: int = 8, queue: int = 64,
        tell: Tell | None = None,
    ) -> None:  # fmt: skip
        options = [*(["--beside"] if beside else []), *(["--exact"] if exact else [])]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the client
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, base, "--slots", str(slots), "--queue", str(queue), *options], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, cwd=workspace, start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._tell = tell
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._asked: dict[str, Tell] = {}
        self._numbers = itertools.count(1)
        self._known = threading.Event()  # whether it is ready or has failed
        self._ready: Ready | None = None
        self._failed: Failed | None = None
        self._closing = False
        self._reader = threading.Thread(target=self._read, name="serving", daemon=True)
        self._reader.start()

    def ready(self) -> Ready:
        """Wait until the base is loaded. Raises what loading raised, and ``MachineError`` when the process ended."""
        self._known.wait()
        if self._ready is None:
            assert self._failed
            raise self._failed.as_error()
        return self._ready

    def ask(
        self, messages: Sequence[Message], *, adapter: str = "", sampling: Sampling = GREEDY, tools: Sequence[dict[str, Any]] = (),
        schema: Any = None, tell: Tell | None = None,
    ) -> Answer:  # fmt: skip
        """Ask, with the adapter of that name or none. Does not wait for the base; several answers are written side by side."""
        answer = Answer(str(next(self._numbers)), self._cancel)
        hear = tell or answer._events.put
        with self._lock:
            gone = self._failed
            if not gone:
                self._asked[answer.id] = hear
        if gone:
            hear(Failed(answer.id, "gone", gone.error, gone.mend, gone.code))
        else:
            self._say(ask_line(Ask(answer.id, tuple(messages), adapter, sampling, tuple(tools), schema)))
        return answer

    @property
    def busy(self) -> int:
        """How many questions have no last event yet."""
        return len(self._asked)

    def close(self) -> None:
        """End the process, by letting it see that nobody asks any more; by force where it does not hear. Its lease is free then."""
        self._closing = True
        assert self._process.stdin
        if self._writing.acquire(timeout=_PATIENCE):
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._writing.release()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._log.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _cancel(self, id: str) -> None:
        if id in self._asked:
            self._say(json.dumps({"do": "cancel", "id": id}) + "\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin
        with self._writing, contextlib.suppress(OSError, ValueError):  # if it ended, the reader says so to everyone
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout:
            for line in self._process.stdout:
                event = parse_event(line)
                if event:
                    self._hear(event)
        self._process.wait()
        if self._failed is None:
            self._fail(
                Failed("", "gone", f"The model's process ended{self._last_words()}.", "Start it again.", MachineError.exit_code)
            )
        failed = self._failed
        assert failed
        with self._lock:
            left, self._asked = self._asked, {}
        for id, hear in left.items():
            hear(Failed(id, "gone", failed.error, failed.mend, failed.code))
        if self._tell and not self._closing:
            self._tell(failed)

    def _hear(self, event: Event) -> None:
        match event:
            case Ready():
                self._ready = event
                self._known.set()
                if self._tell:
                    self._tell(event)
            case Failed(id=""):
                self._fail(event)
            case Done() | Failed():
                with self._lock:
                    hear = self._asked.pop(event.id, None)
                if hear:
                    hear(event)
            case _:
                if hear := self._asked.get(event.id):
                    hear(event)

    def _fail(self, event: Failed) -> None:
        with self._lock:
            self._failed = event
        self._known.set()

    def _last_words(self) -> str:
        if self._closing:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f": {one_line(lines[-1], 200)}" if lines else ""
