"""Child processes that answer requests over their standard input and output.

The parent:

    with ChildProcess("mlxtune.training.probe", name="The planning process") as child:
        answer = child.call("lengths", {"recipe": text})

The child:

    if __name__ == "__main__":
        sys.exit(serve({"lengths": lambda request: lengths(**request.params)}))

Both sides write one JSON object per line. A request is ``{"id", "method", "params"}``. Its replies are ``{"id", "kind", "value"}``:
any number of kind ``progress``, then one of kind ``result`` or ``error`` (see :func:`mlxtune.core.errors.error_to_json`). A request
without an ID gets no reply. The child exits when its standard input is closed, within ``ORPHAN_TIMEOUT`` even if it is busy, so it
never outlives its parent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from mlxtune.core.errors import MachineError, MlxtuneError, error_from_json, error_to_json
from mlxtune.core.files import disk_errors
from mlxtune.core.gpu_errors import gpu_error, watchdog_environment
from mlxtune.core.text import one_line

CLOSE_TIMEOUT = 10.0  # seconds that a child may take to exit before its parent kills it
ORPHAN_TIMEOUT = 1.0  # seconds that a child may take to exit by itself once its parent has closed the pipe or died

ReplyKind = Literal["progress", "result", "error"]
Progress = Callable[[str, float], None]  # description, completed fraction


def quiet(what: str, share: float) -> None:
    """Report no progress."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module`` with this Python; files in the working directory cannot shadow modules (``-P``)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment() -> dict[str, str]:
    """Return the environment for :func:`python_command`. It can import this package from any working directory."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"} | watchdog_environment()
    root = str(Path(__file__).parents[2])
    if root not in sys.path[1:]:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    return environment


def start_detached(command: Sequence[str], log: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a process in ``cwd`` that outlives this one, and append its output to ``log``. Raise ``MachineError`` if the disk is full."""
    with disk_errors(log.name), log.open("ab") as output:
        return subprocess.Popen(
            command, env=python_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            cwd=cwd,
        )  # fmt: skip


# Parent side

_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


def kill_children() -> None:
    """Kill every child of this process, and the processes that they started, for a parent that cannot wait until they exit."""
    for child in list(_children):
        child.kill()


@dataclass(frozen=True)
class Reply:
    """A reply to a request. ``value`` is JSON, or an ``MlxtuneError`` if ``kind`` is ``error``."""

    kind: ReplyKind
    value: Any


Listener = Callable[[Reply], None]


class ChildProcess:
    """A child process and the requests sent to it. All methods may be called from any thread.

    If the process dies, a ``MachineError`` is raised whose message starts with ``name`` and whose hint is ``hint``. The child's
    standard error goes to the file ``log``, or to a temporary file. ``on_exit`` is called if the process ends before :meth:`close`.
    ``command`` replaces the command that runs ``module`` locally, for example with one that runs it over SSH.
    """

    def __init__(
        self, module: str, *arguments: str, name: str, hint: str = "Try again.", log: Path | None = None, cwd: Path | None = None,
        on_exit: Callable[[MachineError], None] | None = None, command: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._name, self._hint, self._on_exit = name, hint, on_exit
        with disk_errors(log.name if log else "a temporary file"):
            self._stderr = log.open("a+b") if log else tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
            self._log_start = self._stderr.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            command or python_command(module, *arguments), env=python_environment(), cwd=cwd, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
        )  # fmt: skip
        _children.add(self)
        self._ids = itertools.count(1)
        self._lock, self._write_lock = threading.Lock(), threading.Lock()
        self._listeners: dict[int, Listener] = {}
        self.exit_error: MachineError | None = None
        self._closing = False
        self._reader = threading.Thread(target=self._read, name=module, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self.exit_error is None and self.process.poll() is None

    def request(self, method: str, params: Mapping[str, Any], listener: Listener) -> None:
        """Send a request and return immediately. The reader thread calls ``listener`` with each reply; it must return quickly."""
        id = next(self._ids)
        with self._lock:
            exit_error = self.exit_error
            if exit_error is None:
                self._listeners[id] = listener
        if exit_error:
            listener(Reply("error", exit_error))
        else:
            self._write({"id": id, "method": method, "params": params})

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, on_progress: Callable[[Any], None] = lambda value: None
    ) -> Any:  # fmt: skip
        """Send a request and wait for its result. Raise the child's error, or ``MachineError`` if the process died."""
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.request(method, params or {}, replies.put)
        while (reply := replies.get()).kind == "progress":
            on_progress(reply.value)
        if reply.kind == "error":
            raise reply.value
        return reply.value

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a request that gets no reply."""
        self._write({"method": method, "params": params})

    def terminate(self) -> None:
        """Stop the process and its children immediately. Pending requests fail with ``MachineError``."""
        self._closing = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.close()

    def close(self) -> None:
        """End the process by closing its standard input. Kill it if it does not exit within ``CLOSE_TIMEOUT``."""
        self._closing = True
        assert self.process.stdin
        if self._write_lock.acquire(timeout=CLOSE_TIMEOUT):
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self._write_lock.release()
        try:
            self.process.wait(CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join()
        self._stderr.close()

    def kill(self) -> None:
        """Kill the process and its children without waiting for them."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.terminate()

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self.process.stdin
        with self._write_lock, contextlib.suppress(OSError, ValueError):  # if the process ended, the reader reports it
            self.process.stdin.write(json.dumps(record).encode() + b"\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self._dispatch(line)
        self.process.wait()
        closing = self._closing  # read now: a listener that learns of the exit may close this object
        reason = "was closed" if closing else self._exit_reason()
        error = gpu_error(reason) or MachineError(f"{self._name} {reason}.", hint=self._hint)
        with self._lock:
            self.exit_error = error
            pending, self._listeners = self._listeners, {}
        for listener in pending.values():
            listener(Reply("error", error))
        if self._on_exit and not closing:
            self._on_exit(error)

    def _dispatch(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            id, kind, value = record["id"], record["kind"], record["value"]
            reply = Reply(kind, error_from_json(value) if kind == "error" else value)
        except (ValueError, KeyError, TypeError):  # not a reply, but output from a wrapper such as ssh
            os.write(self._stderr.fileno(), line)
            return
        with self._lock:
            listener = self._listeners.get(id) if kind == "progress" else self._listeners.pop(id, None)
        if listener:
            listener(reply)

    def _exit_reason(self) -> str:
        self._stderr.seek(self._log_start)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        last_line = f": {one_line(lines[-1], 200).rstrip('.')}" if lines else ""
        code = self.process.returncode
        return (f"was killed by signal {-code}" if code < 0 else f"ended with code {code}") + last_line


Result = TypeVar("Result")


class StoppableCall(Generic[Result]):
    """One request to a child process that ends with it. One thread waits for the result (``read`` from JSON); any thread can stop it."""

    def __init__(self, module: str, method: str, params: Mapping[str, Any], read: Callable[[Any], Result], *, name: str) -> None:
        self._request, self._read, self._stopped = (method, params), read, False
        self._child = ChildProcess(module, name=name)

    def result(self, progress: Progress = quiet) -> Result | None:
        """Return the result, or ``None`` if the process was stopped. Raise its error, or ``MachineError`` if it died."""
        try:
            value = self._child.call(*self._request, lambda update: progress(*update))
            return None if value is None else self._read(value)
        except MachineError:
            if self._stopped:
                return None
            raise
        finally:
            self._child.close()

    def stop(self) -> None:
        """Stop the process and any processes that it started."""
        self._stopped = True
        self._child.terminate()


# Child side


@dataclass(frozen=True)
class Request:
    """A request that is answered with :meth:`result` or :meth:`error` after any number of :meth:`progress` messages."""

    id: int | None
    method: str
    params: dict[str, Any]
    _channel: Channel
    size: int = 0  # characters

    def progress(self, value: Any) -> None:
        self._channel.reply(self.id, "progress", value)

    def result(self, value: Any) -> None:
        self._channel.reply(self.id, "result", value)

    def error(self, error: MlxtuneError) -> None:
        self._channel.reply(self.id, "error", error_to_json(error))


class Channel:
    """The child's end of the pipe. Standard output is reserved for replies; anything else printed goes to standard error.

    ``on_close`` is called in the reader thread once the parent has closed the pipe.
    """

    def __init__(self, on_close: Callable[[], None] = lambda: None) -> None:
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._on_close = on_close
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def receive(self) -> Request | None:
        """Wait for the next request. Return ``None`` once the parent has closed the pipe."""
        return self._requests.get()

    def receive_batch(self, limit: int, patience: float) -> list[Request]:
        """Wait for a request, then up to ``patience`` s for each further one, ``limit`` in all. Empty once the pipe is closed."""
        batch = [first] if (first := self.receive()) else []
        while batch and len(batch) < limit:
            try:
                request = self._requests.get(timeout=patience)
            except queue.Empty:
                break
            if request is None:
                self._requests.put(None)
                break
            batch.append(request)
        return batch

    def reply(self, id: int | None, kind: ReplyKind, value: Any) -> None:
        """Send one reply. Raise ``BrokenPipeError`` if the parent is gone."""
        if id is not None:
            with self._lock:
                self._output.write(json.dumps({"id": id, "kind": kind, "value": value}) + "\n")
                self._output.flush()

    def _read(self) -> None:
        for line in _lines(0):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # not a request
                record = json.loads(line)
                self._requests.put(Request(record.get("id"), record["method"], record["params"], self, len(line)))
        self._requests.put(None)
        self._on_close()
        time.sleep(ORPHAN_TIMEOUT)  # the main thread may be computing, where no exception reaches it
        os._exit(128 + signal.SIGTERM)


def serve(handlers: Mapping[str, Callable[[Request], Any]]) -> int:
    """Answer requests one at a time until the parent closes the pipe, and return the exit code.

    A handler returns the result or raises an ``MlxtuneError``; any other exception ends the process. If the parent closes the pipe
    while a handler is running, ``SystemExit`` interrupts the handler.
    """
    busy = threading.Event()

    def interrupt() -> None:
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def exit_now(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # do not interrupt the cleanup
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, exit_now)
    channel = Channel(on_close=interrupt)
    try:
        while request := channel.receive():
            busy.set()
            try:
                request.result(handlers[request.method](request))
            except MlxtuneError as error:
                request.error(error)
            busy.clear()
    except BrokenPipeError:  # the parent is gone
        pass
    return 0


def run_session(channel: Channel, session: Callable[[Request], None]) -> int:
    """Pass the first request to ``session``, which runs until the parent closes the pipe, and return the exit code.

    An ``MlxtuneError`` that ``session`` raises is the reply to that request.
    """
    request = channel.receive()
    if request is None:
        return 0
    try:
        session(request)
    except MlxtuneError as error:
        request.error(error)
        return error.exit_code
    except BrokenPipeError:  # the parent is gone
        pass
    return 0


def _lines(handle: int) -> Iterator[bytes]:
    """Yield a file descriptor's lines, unbuffered: a buffered reader's lock, held by a daemon thread, would abort the exit."""
    parts: list[bytes] = []  # of a line
    while data := os.read(handle, 1 << 16):
        part, *begun = data.split(b"\n")
        parts.append(part)
        for part in begun:
            yield b"".join(parts)
            parts = [part]
