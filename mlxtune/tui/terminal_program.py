"""Programs that get the terminal while the app is suspended: the user's commands, and the user's editor."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from mlxtune.core.errors import MachineError
from mlxtune.core.text import one_line


def run_in_terminal(app: App[Any], words: Sequence[str], folder: Path, *, hint: str) -> int:
    """Run a program in ``folder`` and return its exit code. Ctrl+C interrupts the program, but does not quit the app.

    Raises ``MachineError`` with ``hint`` if it cannot be run.
    """
    error: Exception | None = None
    code = 0
    try:
        with app.suspend():
            handler = signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN, a function is not inherited by the program
            try:
                code = subprocess.run(words, cwd=folder).returncode
            except (OSError, ValueError) as caught:  # raised after the app resumes, which must not be skipped
                error = caught
            finally:
                signal.signal(signal.SIGINT, handler)
    except SuspendNotSupported as caught:
        error = caught
    if error is not None:
        raise MachineError(one_line(f"{words[0]} cannot be run: {error}."), hint=hint)
    return code


def edit_in_terminal(app: App[Any], text: str, folder: Path, *, suffix: str = ".txt") -> str:
    """Let the user edit ``text`` in ``$VISUAL``, ``$EDITOR``, or vi, and return the new text.

    Raises ``MachineError`` if the editor cannot be run, fails, or leaves a file that is not UTF-8.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    hint = "Set EDITOR to a program that waits until the file is closed, such as vim, or code --wait."
    handle, name = tempfile.mkstemp(prefix="mlxtune-", suffix=suffix)
    file = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise MachineError(f"EDITOR is not a valid command: {one_line(command, 60)}.", hint=hint) from error
        if code := run_in_terminal(app, [*words, name], folder, hint=hint):
            raise MachineError(f"{one_line(words[0], 40)} exited with {code}, so the row is unchanged.", hint=hint)
        edited = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MachineError("The edited text is not UTF-8, so the row is unchanged.", hint="Save it as UTF-8.") from error
    finally:
        file.unlink(missing_ok=True)
    added_end = edited.endswith("\n") and not text.endswith("\n")  # most editors end a file with a line break
    return edited.removesuffix("\n") if added_end else edited
