"""Atomic file writes and safe file reads."""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, Self

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.text import nearest, one_line


class Closeable:
    """Something that is open, such as a file or a process, until its ``with`` block ends."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


FileStamp = tuple[int, int, int]
"""A file's modification time in nanoseconds, its size, and its inode, one of which changes when the file does."""


def file_stamp(file: Path | int) -> FileStamp | None:
    """Return the stamp of a file or a file descriptor; ``None`` if there is no file."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def display_path(path: Path, folder: Path, default: str = "") -> str:
    """Return ``path`` relative to ``folder``, also if it is outside, unless ``default`` is given for that. It is safe to display."""
    path, folder = path.resolve(), folder.resolve()
    return one_line(default if default and not path.is_relative_to(folder) else Path(os.path.relpath(path, folder)).as_posix())


@contextlib.contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Convert errors from a full or read-only disk, or a limit of it, to a ``MachineError`` about ``name``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"The disk is full, so {name} was not saved.", hint="Free up disk space, then try again.") from error
        if error.errno == errno.EFBIG:
            raise MachineError(f"{name} would be larger than the limit for files.", hint="Raise it: ulimit -f unlimited") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(f"{name} cannot be written: {error.strerror}.", hint="Check the folder's permissions.") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data`` atomically. Raise ``MachineError`` if the disk is full or read-only."""
    write_chunks(path, (data,))


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace ``path`` with ``chunks`` as :func:`write_bytes` does, or leave it as it is if ``chunks`` raises an error."""
    with disk_errors(path.name):
        is_new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # within the user's umask
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                sync_file(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # it is no longer empty
                    path.parent.rmdir()
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text``, encoded as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def scratch_folder(path: Path) -> Path:
    """Return the hidden folder in which :func:`new_folder` collects the files of ``path``."""
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` at the end, with everything in it on disk, and is removed after an error.

    ``path`` is thus complete or absent. A killed process leaves :func:`scratch_folder`. Raise ``InputError`` if ``path`` exists, and
    ``MachineError`` if the disk is full or read-only.
    """
    taken = InputError(f"{path} already exists.", hint="Remove or rename it, or choose another folder with --to.")
    if os.path.lexists(path):
        raise taken
    scratch = scratch_folder(path)
    try:
        with disk_errors(str(path)):
            shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted process
            scratch.mkdir(parents=True)
            yield scratch
            for file in scratch.rglob("*"):
                if file.is_file():
                    with file.open("rb") as stream:
                        sync_file(stream.fileno())
            if os.path.lexists(path):  # made by another program in the meantime
                raise taken
            os.rename(scratch, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file. Raise ``OSError`` if it is not a regular one, because a pipe may never end."""
    with open(path, encoding=encoding, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read()


def read_patterns(package: str, name: str) -> dict[str, re.Pattern[str]]:
    """Return the regular expressions in a TOML file of a package."""
    found = tomllib.loads(files(package).joinpath(name).read_text("utf-8"))
    return {key: re.compile(pattern) for key, pattern in found.items()}


def read_failure(error: Exception) -> str:
    """Return why a file cannot be read, in a few words, without the number and the path in an ``OSError``."""
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else str(error), 120)


@contextlib.contextmanager
def read_errors(what: str, kind: type[InputError] = InputError, hint: str = "") -> Iterator[None]:
    """Convert errors from a file that is missing, cannot be read, or is invalid to a ``kind`` about ``what``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise kind(f"Cannot read {what}: {read_failure(error)}.", hint=hint) from error


def read_json(path: Path, *, unique_keys: bool = False) -> Any:
    """Return the JSON value in ``path``. Raise ``InputError`` if the file is missing or invalid.

    With ``unique_keys``, a repeated key is invalid, too. Programs differ in which of its values they use.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=unique_object if unique_keys else None)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {read_failure(error)}.") from error


def read_state(path: Path, version: int) -> dict[str, Any]:
    """Return the JSON object in ``path``, whose ``v`` is ``version``; an empty one if the file is missing, invalid, or of another version."""
    with contextlib.suppress(InputError):
        if isinstance(record := read_json(path), dict) and record.get("v") == version:
            return record
    return {}


def require_version(found: object, expected: int, path: Path, hint: str = "") -> None:
    """Raise ``InputError`` unless ``found``, the value of ``v`` in the file at ``path``, is the version that this mlxtune writes.

    A file of another version is refused; there are no readers of older files. ``hint`` differs if it holds the user's decisions.
    """
    hint = hint or "Create it again with this version, or use the version that wrote it."
    if found != expected or isinstance(found, bool):
        raise InputError(f"{path} was written by another version of mlxtune.", hint=hint)


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, and reject a key that occurs twice, because readers differ in which of the values they use."""
    result = dict(pairs)
    if len(result) < len(pairs):
        name = next(name for index, (name, _) in enumerate(pairs) if name in {key for key, _ in pairs[:index]})
        raise ValueError(f"the key {name!r} occurs twice")
    return result


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading, or a symbolic link to one if ``follow``. Raise ``InputError`` if that is not possible.

    The type is checked after opening, so the file cannot be swapped in between.
    """
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # do not block on a named pipe
        handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path.name} in {path.parent}.") from error
    except OSError as error:
        reason = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise InputError(f"{path} {reason}.") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is not a regular file.")
    return os.fdopen(handle, "rb")


def user_path(text: str) -> Path:
    """Return ``text`` as a path, with ``~`` expanded. Raise ``InputError`` if it names a user who does not exist."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: there is no user with that name.", hint="Use a path, or ~ for your own home folder.") from error


def similar_file(path: Path, folder: Path | None = None) -> str:
    """Return a hint that names the file in ``folder``, by default the path's own, whose name is most similar to the missing ``path``.

    Return ``""`` if none is similar. Names without suffixes are compared first, so that a common suffix does not count.
    """
    try:
        files = sorted((folder or path.parent).iterdir())
    except OSError:
        return ""
    stem = nearest(path.stem, {file.stem for file in files}, cutoff=0.7)
    same = {file.name: file for file in files if file.stem == stem}
    return f"Did you mean {one_line(str(same[nearest(path.name, same) or min(same)]))}?" if same else ""


def sync_file(handle: int) -> None:
    """Flush a file descriptor to the disk itself.

    On macOS, ``fsync`` may leave the data in the disk's cache, and only ``F_FULLFSYNC`` survives a power failure (``fsync(2)``). File
    systems that do not support it get ``fsync``.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(handle, full_sync)
            return
        except OSError:
            pass
    os.fsync(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename is not lost in a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_file(handle)
    finally:
        os.close(handle)


def home() -> Path:
    """Return the folder for converted models, the BLAS copy, settings, the machine's ID, and the accelerator lock.

    It is ``$MLXTUNE_HOME``, ``$XDG_CACHE_HOME/mlxtune``, or ``~/.cache/mlxtune``.
    """
    if custom := os.environ.get("MLXTUNE_HOME"):
        return Path(custom).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxtune"


def machine_id() -> str:
    """Return a random ID that this machine keeps. A Mac's host name changes with its network."""
    path = home() / "machine-id"
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        new = uuid.uuid4().hex
        write_text(path, new + "\n")
        return new
