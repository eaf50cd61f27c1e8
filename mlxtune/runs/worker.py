"""A worker's life: lock, lease, heartbeat, signals, last word. What it works on is its caller's business."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.errors import Interrupted, MachineError, MlxtuneError
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import hold, lease

HEARTBEAT = 5.0  # seconds
_OUT_OF_MEMORY = re.compile(
    r"unable to allocate|out of memory|insufficient memory|maximum allowed buffer size", re.IGNORECASE
)  # MLX's words


_HALF = re.compile(rf"\.\d{{7}}(\.old)?|\.(?!{re.escape(launch.RECORD)}).+\.\w{{8}}")  # a checkpoint; a file before its rename


class Worker:
    """What the work sees of its process: where it is, what was asked, whether to stop, and how to say things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe: Recipe = load(folder / "recipe.toml")
        self.request = launch.request(folder)
        self._events = EventWriter(folder)
        self._stop = threading.Event()
        self.emit: Callable[..., None] = self._events.emit

    @property
    def stopping(self) -> bool:
        """Whether someone asked the run to stop; the work looks between steps."""
        return self._stop.is_set()

    def begin(self, kind: str, **fields: Any) -> None:
        """Say ``run.started`` or, with a ``step``, ``run.resumed``."""
        type = "run.resumed" if "step" in fields else "run.started"
        self.emit(
            type, kind=kind, name=self.recipe.name, base=self.recipe.model.base, pid=os.getpid(), host=socket.gethostname(), **fields
        )  # fmt: skip

    def warn(self, text: str) -> None:
        self.emit("warning", text=text)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._stop.is_set():
            signal.signal(number, signal.SIG_DFL)  # the second one means it
            os.kill(os.getpid(), number)
        self._stop.set()

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT):
            try:
                self.emit("heartbeat")
            except (MlxtuneError, OSError) as error:
                print(f"no heartbeat: {error}", file=sys.stderr)


KINDS = {"evals": "the evaluation", "exports": "the export"}  # what a folder holds, as others are told it; else it is a run


def live(folder: Path, work: Callable[[Worker], Mapping[str, Any]]) -> int:
    """Run ``work`` as the worker of ``folder``; returns the exit code.

    ``work`` returns the summary for ``run.finished``, raises ``Interrupted`` after it stopped at a checkpoint, and any
    ``MlxtuneError`` for a failure the user can read. Anything else is a fault of ours: the traceback goes to the log.
    """
    done = threading.Event()
    try:
        with hold(folder / "run.lock", busy=f"{folder.name} has a worker already.", note=str(os.getpid())):
            _sweep(folder)
            worker = Worker(folder)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, worker._on_signal)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is no reason to stop
            threading.Thread(target=worker._beat, args=(done,), name="heartbeat", daemon=True).start()
            try:
                kind = KINDS.get(folder.parent.name, "the run")
                with lease(f"{kind} {folder.name} in {folder.parent.parent}"):
                    summary = work(worker)
                worker.emit("run.finished", summary=dict(summary))
                return 0
            except Interrupted as stop:
                worker.emit("run.stopped", step=stop.step, reason=stop.reason)
                return stop.exit_code
            except Exception as error:
                known = _known(error)
                if known is None:
                    traceback.print_exc()
                    known = MlxtuneError(
                        f"{type(error).__name__}: {error}", mend=f"A fault of ours; the log has more: {folder / 'worker.log'}"
                    )
                worker.emit("run.failed", error=known.message, mend=known.mend, code=known.exit_code)
                return known.exit_code
    except MlxtuneError as error:
        print(f"{error.message} {error.mend}".strip(), file=sys.stderr)
        return error.exit_code
    finally:
        done.set()


def _sweep(folder: Path) -> None:
    """Remove what a worker that was killed left half-written, but not what the launcher may be writing."""
    for left in [path for path in folder.rglob(".*") if _HALF.fullmatch(path.name)]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _known(error: Exception) -> MlxtuneError | None:
    """``error`` as one that the user can read, if it is none of our faults."""
    if isinstance(error, MlxtuneError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return MachineError("The machine ran out of memory.", mend="Use fewer training.batch_tokens or a smaller model.")
    return None
