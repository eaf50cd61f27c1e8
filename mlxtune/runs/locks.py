"""File locks. A worker holds an ``flock`` until it exits, even if it is killed."""

import contextlib
import fcntl
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import disk_errors, home, open_regular

_HOLDERS = {
    "train": "the training run", "eval": "the evaluation", "search": "the search", "export": "the export",
    "generate": "the generation", "chat": "a chat or server", "judge": "a judge", "clustering": "a clustering",
}  # fmt: skip


@contextlib.contextmanager
def file_lock(
    path: Path, *, busy: str | Callable[[str], MachineError], note: str = "", timeout: float = 2.0
) -> Iterator[int]:  # fmt: skip
    """Hold the lock at ``path``, write ``note`` to the file, and yield its descriptor, with which a child process can hold it, too.

    Retry for ``timeout`` seconds, because a reader that probes the lock holds it briefly. Then raise ``MachineError``: with the
    message ``busy``, or the one that ``busy`` returns for the holder's note.
    """
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise (MachineError(busy) if isinstance(busy, str) else busy(lock_note(path))) from error
                time.sleep(0.05)
        with disk_errors(path.name):
            os.ftruncate(handle, 0)
            os.pwrite(handle, note.encode(), 0)
        yield handle
    finally:
        os.close(handle)


def lock_note(path: Path) -> str:
    """Return the note that the holder of the lock at ``path`` wrote to it, or an empty string."""
    try:
        with open_regular(path) as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except InputError:
        return ""


def is_locked(path: Path) -> bool:
    """Return whether a live process holds the lock at ``path``."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # do not block on a named pipe
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def accelerator_lock() -> Path:
    """Return the path of the lock that all processes on this machine share."""
    return home() / "accelerator.lock"


def accelerator_lease(holder: str, folder: Path, run: str = "") -> contextlib.AbstractContextManager[int]:
    """Hold the accelerator for ``run`` or other work, as ``holder`` in ``_HOLDERS``. Raise ``MachineError`` if it is in use."""
    note = json.dumps({"holder": holder, "run": run, "folder": str(folder), "pid": os.getpid()})
    return file_lock(accelerator_lock(), busy=_in_use, note=note)


def require_free_accelerator(timeout: float = 2.0) -> None:
    """Raise ``MachineError`` if another process holds the accelerator, and does not release it within ``timeout`` seconds."""
    if is_locked(accelerator_lock()):
        with file_lock(accelerator_lock(), busy=_in_use, timeout=timeout):
            return


def _in_use(note: str) -> MachineError:
    """Return the error that names the holder of the accelerator, and how to stop it."""
    try:
        held = json.loads(note)
        name, folder = f"{_HOLDERS[held['holder']]} {held['run']}".strip(), held["folder"]
    except (ValueError, KeyError, TypeError):  # it has not written its note yet
        return MachineError("This machine is in use.", hint="Wait for it to finish.")
    stop = f", or stop it: cd {shlex.quote(folder)} && mlxtune runs stop {held['run']}" if held["run"] else "."
    hint = f"Wait for it to finish{stop}"
    if held["holder"] == "chat":
        hint = "End it: e in the app's Chat room (C) unloads the model; elsewhere, quit the chat or the server."
    return MachineError(f"This machine is in use by {name} in {folder} (process {held['pid']}).", hint=hint)
