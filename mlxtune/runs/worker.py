"""The life cycle of a worker process: lock, lease, heartbeat, signals, and terminal event."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxtune.core import gpu_errors
from mlxtune.core.errors import GpuError, Interrupted, MachineError, MlxtuneError
from mlxtune.core.machine_load import busy_load
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.events import EventWriter, RunRemoved
from mlxtune.runs.locks import accelerator_lease, file_lock
from mlxtune.runs.registry import LAUNCH_FILE, Run

HEARTBEAT = 5.0  # seconds
_PROGRESS_INTERVAL = 0.5  # seconds between progress events
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RESTART = -1  # not an exit code
_RESTARTED = "MLXTUNE_RESTARTED"  # set in the environment of a process that was started after a GPU error
_OUT_OF_MEMORY = re.compile(r"unable to allocate|out of memory|maximum allowed buffer size", re.IGNORECASE)  # as MLX words it
_TEMPORARY = re.compile(r"\.\d{7}(\.old)?|\..+\.\w{8}")  # a partly written checkpoint, or a file that is not renamed yet


class Worker:
    """The worker's interface to its work: folder, recipe, request, event log, and stop flag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe: Recipe = Run(folder).recipe()
        self.request = launch.read_request(folder)
        self._events = EventWriter(folder)
        self._stop = threading.Event()
        self.emit, self.warn = self._events.emit, self._events.warn
        self.sleep_guard = 0  # the process that keeps a Mac awake
        self._started = self._warned_of_load = False

    @property
    def stopping(self) -> bool:
        """Whether the user asked the run to stop. Checked between steps."""
        return self._stop.is_set()

    def report_start(self, kind: str, **fields: Any) -> None:
        """Emit ``run.resumed`` if ``step`` is given, otherwise ``run.started``."""
        self.emit(
            "run.resumed" if "step" in fields else "run.started", kind=kind, name=self.recipe.name,
            base=self.recipe.model.base, pid=os.getpid(), host=socket.gethostname(), **fields,
        )  # fmt: skip
        if self.sleep_guard:
            self.emit("sleep.prevented", pid=self.sleep_guard)
        self._started = True

    def report_end(self, error: MlxtuneError) -> None:
        if isinstance(error, Interrupted):
            self.emit("run.stopped", step=error.step, reason=error.reason)
        else:
            self.emit("run.failed", error=error.message, hint=error.hint, code=error.exit_code)

    def progress_reporter(self, arm: str, of: str) -> Callable[[int, int], None]:
        """Return a progress callback that emits rate-limited events about ``of`` and honors stop requests."""
        last = 0.0

        def report_progress(done: int, total: int) -> None:
            nonlocal last
            if self.stopping:
                raise Interrupted(0)
            if done == total or time.monotonic() - last > _PROGRESS_INTERVAL:
                last = time.monotonic()
                self.emit("arm.progress", arm=arm, done=done, total=total, of=of)

        return report_progress

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._stop.is_set():
            signal.signal(number, signal.SIG_DFL)  # the second signal kills the process
            os.kill(os.getpid(), number)
        self._stop.set()

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT):
            try:
                self.emit("heartbeat")
                if self._started and not self._warned_of_load and (load := busy_load()):  # explain once why the run is slow
                    self._warned_of_load = True
                    self.warn("busy_machine", load=load, cores=os.cpu_count())
            except RunRemoved as error:  # nobody can see or stop this run, and it holds the accelerator
                print(error.message, file=sys.stderr, flush=True)
                os._exit(error.exit_code)
            except (MlxtuneError, OSError) as error:
                print(f"heartbeat failed: {error}", file=sys.stderr)


def run_worker(folder: Path, work: Callable[[Worker], Mapping[str, Any]]) -> int:
    """Run ``work`` as the worker of ``folder`` and return the exit code.

    ``work`` returns the summary for ``run.finished``. It raises ``Interrupted`` after stopping at a checkpoint, or another
    ``MlxtuneError`` if it fails. Any other exception is a bug, and its traceback is written to the log. After its first GPU error,
    the process is replaced with a new one that runs ``work`` again.
    """
    code = _run(folder, work)
    if code == _RESTART:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # until the new process handles them
        os.execve(sys.executable, sys.orig_argv, os.environ | gpu_errors.smaller_commands() | {_RESTARTED: "1"})
    return code


def run_nested(outer: Worker, folder: Path, work: Callable[[Worker], Mapping[str, Any]]) -> None:
    """Run ``work`` as the worker of ``folder`` in this process, which is the worker of another run and has the accelerator.

    Exceptions are raised after they have been written to the log of ``folder``. A stop request for ``outer`` stops both.
    """
    with file_lock(folder / "run.lock", busy=f"{folder.name} already has a worker.", note=str(os.getpid())):
        _remove_temporary_files(folder)
        worker = Worker(folder)
        worker._stop = outer._stop
        try:
            summary = work(worker)
        except Exception as error:
            worker.report_end(_as_failure(error, folder))
            raise
        worker.emit("run.finished", summary=dict(summary))


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))


def _run(folder: Path, work: Callable[[Worker], Mapping[str, Any]]) -> int:
    """Run ``work`` and return the exit code, or ``_RESTART`` after a GPU error."""
    done = threading.Event()
    try:
        with file_lock(folder / "run.lock", busy=f"{folder.name} already has a worker.", note=str(os.getpid())):
            _remove_temporary_files(folder, keep=LAUNCH_FILE)  # the launcher may be writing it
            worker = Worker(folder)
            for number in _STOP_SIGNALS:
                signal.signal(number, worker._on_signal)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing the terminal does not stop the run
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            threading.Thread(target=worker._beat, args=(done,), name="heartbeat", daemon=True).start()
            try:
                with accelerator_lease(Run(folder).kind, folder.parent.parent, folder.name), prevent_sleep() as worker.sleep_guard:
                    summary = work(worker)
                worker.emit("run.finished", summary=dict(summary))
                return 0
            except Exception as error:
                failure = _as_failure(error, folder)
                if isinstance(failure, GpuError) and not worker.stopping and _RESTARTED not in os.environ:
                    worker.emit("run.restarting", error=failure.message, hint=failure.hint)
                    return _RESTART
                worker.report_end(failure)
                return failure.exit_code
    except MlxtuneError as error:
        print(f"{error.message} {error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    finally:
        done.set()


def _remove_temporary_files(folder: Path, *, keep: str = "") -> None:
    """Remove files that a killed process left incomplete, but not those of ``keep``, a file that another process may be writing."""
    for path in [path for path in folder.rglob(".*") if _TEMPORARY.fullmatch(path.name)]:
        if keep and path.name.startswith(f".{keep}."):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _as_failure(error: Exception, folder: Path) -> MlxtuneError:
    """Convert ``error`` to a user-readable error. For a bug or a GPU error, also print the traceback."""
    if isinstance(error, MlxtuneError):
        return error
    if is_out_of_memory(error):
        return MachineError("Out of memory.", hint="Reduce training.batch_tokens, or use a smaller model.")
    traceback.print_exc()
    if isinstance(error, RuntimeError) and (failure := gpu_errors.gpu_error(str(error))):
        return failure
    hint = f"Report this bug with the traceback in {folder / 'worker.log'}."
    return MlxtuneError(f"Internal error: {type(error).__name__}: {error}", hint=hint)


CAFFEINATE = "/usr/bin/caffeinate"  # only macOS has it


@contextlib.contextmanager
def prevent_sleep() -> Iterator[int]:
    """Prevent idle sleep until the context or this process ends, and yield the ID of the process that does so; 0 off macOS."""
    if not os.path.exists(CAFFEINATE):
        yield 0
        return
    process = subprocess.Popen([CAFFEINATE, "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
