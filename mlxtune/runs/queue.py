"""The queue of a workspace: commands to run one after another, in ``queue.jsonl``.

Each line adds an entry, or records that one was started or ended, or that the waiting entries were cleared.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlxtune.core import journal
from mlxtune.core.child_process import python_command, start_detached
from mlxtune.core.errors import MachineError
from mlxtune.runs.locks import file_lock, is_locked

FILE, LOCK, LOG = "queue.jsonl", "queue.lock", "queue.log"
COMMAND_LOCK = "queue.command.lock"  # held by the command that runs, also after the queue's process was killed
ENTRY = "MLXTUNE_QUEUE_ENTRY"  # tells a command the number of its entry
_BUSY = "Another process already runs this queue."

EntryStatus = Literal["waiting", "started", "done", "failed", "cleared"]


@dataclass(frozen=True)
class QueueEntry:
    """A command without ``mlxtune``, the folder of the newest run that it started (if any), and how it ended."""

    number: int
    command: tuple[str, ...]
    status: EntryStatus = "waiting"
    run: str = ""
    message: str = ""

    @property
    def text(self) -> str:
        return shlex.join(self.command)


class Queue:
    """The queue of a workspace. Any process may add entries; one at a time runs them."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    @property
    def is_running(self) -> bool:
        return is_locked(self.workspace / LOCK)

    def runner_lock(self) -> AbstractContextManager[int]:
        """Return a lock for the process that runs the entries. Raise ``MachineError`` if there is another one."""
        return file_lock(self.workspace / LOCK, busy=_BUSY)

    def entries(self) -> list[QueueEntry]:
        entries: dict[int, QueueEntry] = {}
        for record in journal.read(self.workspace / FILE):
            _apply(entries, record)
        return list(entries.values())

    def add(self, command: Sequence[str]) -> QueueEntry:
        with self._changes():
            entry = QueueEntry(1 + max((entry.number for entry in self.entries()), default=0), tuple(command))
            self._append({"type": "added", "number": entry.number, "command": list(command)})
        return entry

    def start(self, entry: QueueEntry, run: str = "") -> None:
        """Record that an entry was started, or a run that it is about to start."""
        self._record({"type": "started", "number": entry.number, "run": run})

    def end(self, entry: QueueEntry, *, failed: bool, message: str) -> None:
        self._record({"type": "ended", "number": entry.number, "failed": failed, "message": message})

    def remove(self, *numbers: int) -> list[QueueEntry]:
        """Remove the waiting entries among ``numbers``, or all waiting entries if there are none, and return them."""
        removed = []
        with self._changes():
            for entry in self.entries():
                if entry.status == "waiting" and (not numbers or entry.number in numbers):
                    self._append({"type": "cleared", "number": entry.number})
                    removed.append(entry)
        return removed

    def start_runner(self) -> None:
        """Start a process that runs the entries, and continues after this one ends. Raise ``MachineError`` if there already is one."""
        if self.is_running:
            raise MachineError(_BUSY)
        start_detached(python_command("mlxtune", "queue", "run"), self.workspace / LOG, self.workspace)

    def _record(self, record: Mapping[str, Any]) -> None:
        with self._changes():
            self._append(record)

    def _changes(self) -> AbstractContextManager[int]:
        return file_lock(self.workspace / f"{FILE}.lock", busy="Another process is changing the queue.")

    def _append(self, record: Mapping[str, Any]) -> None:
        with journal.Journal(self.workspace / FILE) as file:
            file.append({"v": 1, **record}, sync=True)


def record_run(folder: Path) -> None:
    """Record the run in ``folder``, which is about to start, if an entry's command starts it. A queue that is restarted continues it."""
    if number := os.environ.get(ENTRY):
        Queue(folder.parent.parent).start(QueueEntry(int(number), ()), str(folder))


def _apply(entries: dict[int, QueueEntry], record: Mapping[str, Any]) -> None:
    """Apply a line of the journal to ``entries``. Unknown lines are ignored."""
    match record:
        case {"type": "added", "number": int(number), "command": list(command)} if all(isinstance(word, str) for word in command):
            entries[number] = QueueEntry(number, tuple(command))
        case {"type": "started", "number": int(number), "run": str(run)} if number in entries:
            entries[number] = replace(entries[number], status="started", run=run or entries[number].run)
        case {"type": "ended", "number": int(number), "failed": bool(failed), "message": str(message)} if number in entries:
            entries[number] = replace(entries[number], status="failed" if failed else "done", message=message)
        case {"type": "cleared", "number": int(number)} if number in entries:
            entries[number] = replace(entries[number], status="cleared")
