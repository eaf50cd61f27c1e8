"""Number every file operation of this process and inject a fault at one of them."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

# Killed before the operation, killed halfway through it, disk full from then on, read-only from then on; not disturbed, but copied.
How = Literal["kill", "half", "full", "read-only", "copy"]

CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
WRITING = ("write", "pwrite", "file.write")  # operations that can be interrupted halfway
FILLING = (*WRITING, "open", "mkdir", "fsync")  # operations that fail on a full disk
SAME = ("fsync",)  # being killed before these equals being killed before the next operation


class Operations:
    """Patch ``os`` and ``open`` to count every file-changing operation from 1 and inject fault ``how`` at number ``at``.

    ``before`` is called before each operation: it sees the files as they would be after a kill there. ``halfway`` is called halfway
    through each one that can be interrupted there, if it is given. They may change files, which is not counted.
    """

    def __init__(
        self,
        at: int = 0,
        how: How = "kill",
        before: Callable[[], object] = lambda: None,
        halfway: Callable[[], object] | None = None,
    ) -> None:
        self.at, self.how, self.before, self.halfway = at, how, before, halfway
        self.names: list[str] = []
        self._looking = False

    def install(self) -> None:
        for name in ("write", "pwrite"):
            setattr(os, name, self._writing(name, getattr(os, name)))
        if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS, it would be used instead of fsync
            del fcntl.F_FULLFSYNC
        os.fsync = self._counted("fsync", lambda handle: None)  # a kill keeps the page cache, so a real fsync would prove nothing
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "chmod", "truncate", "ftruncate"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        create, first = os.mkdir, self._counted("mkdir", os.mkdir)
        os.mkdir = lambda path, *args, **more: (create if os.path.isdir(path) else first)(path, *args, **more)  # changes no file
        plain, counted = os.open, self._counted("open", os.open)
        os.open = lambda path, flags, *args, **kwargs: (counted if flags & CHANGING else plain)(path, flags, *args, **kwargs)
        builtins.open = io.open = self._opening(io.open)

    def meet(self, name: str, half: Callable[[], object] = lambda: None) -> None:
        """Count the next operation."""
        if self._looking:
            return
        self._look(self.before)
        self.names.append(name)
        number = len(self.names)
        if self.how in ("kill", "half") and number == self.at:
            if self.how == "half":
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "full" and number >= self.at and name in FILLING:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.how == "read-only" and number >= self.at > 0:
            raise OSError(errno.EROFS, "Read-only file system")

    def _look(self, function: Callable[[], object]) -> None:
        self._looking = True
        try:
            function()
        finally:
            self._looking = False

    def _counted(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.meet(name)
            return plain(*args, **kwargs)

        return call

    def _writing(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: int, data: bytes, *args: Any) -> Any:
            half = len(data) // 2
            self.meet(name, lambda: plain(handle, data[:half], *args))
            if not self.halfway or self._looking:
                return plain(handle, data, *args)
            plain(handle, data[:half], *args)
            self._look(self.halfway)
            return half + plain(handle, data[half:], *(offset + half for offset in args))

        return call

    def _opening(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return plain(file, mode, *args, **kwargs)
            if not isinstance(file, int):
                self.meet("open")
            return _File(plain(file, mode, *args, **kwargs), self)

        return call


class _File:
    """File whose writes are counted."""

    def __init__(self, file: Any, operations: Operations) -> None:
        self.file, self.operations = file, operations

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self.operations.meet("file.write", lambda: (self.file.write(data[:half]), self.file.flush()))
        if not self.operations.halfway or self.operations._looking:
            return int(self.file.write(data))
        self.file.write(data[:half])
        self.file.flush()
        self.operations._look(self.operations.halfway)
        return half + int(self.file.write(data[half:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def leftovers(folder: Path) -> list[str]:
    """Return the partially written files in ``folder``."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))
