"""File locks. A worker holds an ``flock`` until it exits, even if it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import disk_errors, home, open_regular

CHAT_HOLDER = "a chat or server"
_IN_USE = "This machine is in use by {note}."
_RUN_HOLDER = re.compile(r"the [a-z ]+ (?P<run>\d{8}-\d{4}-\S+) in (?P<workspace>.+) \(process \d+\)")


@contextlib.contextmanager
def file_lock(path: Path, *, busy_message: str, note: str = "", timeout: float = 2.0) -> Iterator[None]:
    """Hold the lock at ``path`` and write ``note`` to the file.

    Retry for ``timeout`` seconds, because a reader that probes the lock holds it briefly. Then raise ``MachineError`` with
    ``busy_message``, in which ``{note}`` is replaced with the holder's note.
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
                    note = lock_note(path)
                    raise MachineError(busy_message.format(note=note), hint=_stop_hint(note)) from error
                time.sleep(0.05)
        with disk_errors(path.name):
            os.ftruncate(handle, 0)
            os.pwrite(handle, note.encode(), 0)
        yield
    finally:
        os.close(handle)


def lock_note(path: Path) -> str:
    """Return the note that the holder of the lock at ``path`` wrote to it, or an empty string."""
    try:
        with open_regular(path) as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except InputError:
        return ""


def _stop_hint(note: str) -> str:
    """Return how to stop the run that holds a lock with this ``note``; empty if no run holds it."""
    match = _RUN_HOLDER.fullmatch(note)
    if note.startswith(CHAT_HOLDER):
        return "End it: e in the app's Chat room (C) unloads the model; elsewhere, quit the chat or the server."
    if not match:
        return "Wait for it to finish, or stop it." if "(process " in note else ""
    return f"Wait for it to finish, or stop it: cd {shlex.quote(match['workspace'])} && mlxtune runs stop {match['run']}"


def is_locked(path: Path) -> bool:
    """Return whether a live process holds the lock at ``path``."""
    try:
        handle = os.open(path, os.O_RDONLY)
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


def accelerator_lease(holder: str) -> contextlib.AbstractContextManager[None]:
    """Hold the accelerator. Other processes see ``holder`` in their error. Raise ``MachineError`` if another process holds it."""
    return file_lock(accelerator_lock(), busy_message=_IN_USE, note=f"{holder} (process {os.getpid()})")


def require_free_accelerator(timeout: float = 2.0) -> None:
    """Raise ``MachineError`` if another process holds the accelerator, and does not release it within ``timeout`` seconds."""
    if is_locked(accelerator_lock()):
        with file_lock(accelerator_lock(), busy_message=_IN_USE, timeout=timeout):
            return
