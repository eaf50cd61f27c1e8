"""Files that are whole or absent: write beside, flush to disk, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlxtune.core.errors import InputError, MachineError


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a ``MachineError`` that names ``what``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"The disk is full, so {what} was not saved.", mend="Free some space, then run it again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(f"{what} may not be written: {error.strerror}.", mend="Check the folder's permissions.") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data`` atomically. Raises ``MachineError`` when the disk is full or read-only."""
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``. Raises ``InputError`` when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """``path``, open for reading, if it is a regular file and, unless links are to be followed, no symbolic link.

    Raises ``InputError`` with the reason. What stands there is looked at once it is open, so that nothing can be put in its place.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe under that name would keep us waiting
        handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise InputError(f"There is no {path.name} in {path.parent}.") from error
    except OSError as error:
        why = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise InputError(f"{path} {why}.") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is not a regular file.")
    return os.fdopen(handle, "rb")


def sync_folder(path: Path) -> None:
    """Flush a folder's own entries, so that a rename survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def home() -> Path:
    """Where mlxtune keeps what outlives a workspace: converted models, the BLAS copy, the accelerator lease.

    ``MLXTUNE_HOME`` moves it; otherwise ``$XDG_CACHE_HOME/mlxtune``, otherwise ``~/.cache/mlxtune``.
    """
    if custom := os.environ.get("MLXTUNE_HOME"):
        return Path(custom).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxtune"
