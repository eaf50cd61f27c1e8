"""Who is alive: a worker holds an ``flock`` for as long as it lives, whatever ends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mlxtune.core.errors import MachineError
from mlxtune.core.files import disk_errors, home

_IN_USE = "The accelerator is in use by {note}; wait for it, or stop it there."


@contextlib.contextmanager
def hold(path: Path, *, busy: str, note: str = "", patience: float = 2.0) -> Iterator[None]:
    """Hold the lock at ``path``; ``note`` is left in the file for whoever finds it taken.

    Tries for ``patience`` seconds (a reader that probes the lock holds it for an instant), then raises ``MachineError``
    with the message ``busy``, in which ``{note}`` is the holder's note.
    """
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        give_up = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    holder = os.pread(handle, 4096, 0).decode("utf-8", "replace").strip()
                    raise MachineError(busy.format(note=holder)) from error
                time.sleep(0.05)
        with disk_errors(path.name):
            os.ftruncate(handle, 0)
            os.pwrite(handle, note.encode(), 0)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock at ``path``."""
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


def lease_path() -> Path:
    """The machine's one accelerator lease."""
    return home() / "accelerator.lock"


def lease(what: str) -> contextlib.AbstractContextManager[None]:
    """Hold the accelerator as ``what``, which whoever else wants it is told. Raises ``MachineError`` where another has it."""
    return hold(lease_path(), busy=_IN_USE, note=f"{what} (process {os.getpid()})")


def require_lease() -> None:
    """Raise ``MachineError``, which says who it is, where another process has the accelerator; hold nothing."""
    if is_held(lease_path()):
        with hold(lease_path(), busy=_IN_USE):
            return
