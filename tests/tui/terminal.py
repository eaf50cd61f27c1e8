"""The real app on a terminal of its own: what it writes, byte by byte, and how it leaves the terminal."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from waiting import PATIENCE

from mlxtune.core.child_process import python_environment
from mlxtune.tui.rooms import ROOMS

# All that the app may write beside text: colours, the cursor's place, modes of the terminal, the pointer's shape.
ALLOWED = re.compile(
    rb"\x1b\[(?:[\d;]*m|\d+;\d+H|\?\d+(?:;\d+)*[hl]|\?\d+\$p|[<>=]?\d*u|\?\d*u|[\d;]*t|\d*[ABCDJKG]|6n|H|[\d;]*r)|\x1b(?:7|8|=|>)|\x1bP=\d[sc]\x1b\\"
    rb"|\x1b\]22;[a-z]*\x07"
)


class Terminal:
    """A program on a terminal of ``columns`` by ``rows``. With ``own_input``, it reads from another terminal than it writes to."""

    def __init__(
        self, workspace: Path, home: Path, columns: int = 120, rows: int = 36, code: str = "", own_input: bool = False, **more: str
    ) -> None:
        command = [sys.executable, *(["-c", code] if code else ["-P", "-m", "mlxtune"])]
        self._main, self.inner = pty.openpty()
        self._keys, keyboard = pty.openpty() if own_input else (-1, self.inner)
        self.before = termios.tcgetattr(self.inner)
        self.resize(columns, rows)
        environment = {**python_environment(), "MLXTUNE_HOME": str(home), "TERM": "xterm-256color", **more}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            command, cwd=workspace, env=environment, stdin=keyboard, stdout=self.inner, stderr=self.inner, start_new_session=True
        )
        if own_input:
            os.close(keyboard)
        self.written = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds: float = 0.05) -> bytes:
        """What is written within that time; returns with the first bytes."""
        if not select.select([self._main], [], [], seconds)[0]:
            return b""
        try:
            new = os.read(self._main, 1 << 20)
        except OSError:  # the other end is closed
            return b""
        self.written += new
        return new

    def wait(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            self.read(left)

    def press(self, keys: str, shows: str = "") -> None:
        """Type ``keys``, and wait until ``shows`` is written after them."""
        start = len(self.written)
        os.write(self._main, keys.encode())
        self.until(shows, start)

    def until(self, text: str, start: int = 0, seconds: float = PATIENCE) -> None:
        """Wait until ``text`` has been written, ``start`` bytes or more after the first."""
        give_up = time.monotonic() + seconds
        while text.encode() not in plain(self.written[start:]):
            assert time.monotonic() < give_up, f"{text!r} was never shown:\n{plain(self.written[-6000:]).decode(errors='replace')}"
            assert self.process.poll() is None or self.read(), plain(self.written[-3000:]).decode(errors="replace")
            self.read()

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, plain(self.written[-3000:]).decode(errors="replace")
            self.read()

    def end(self, seconds: float = PATIENCE) -> int:
        give_up = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < give_up, "it did not end"
            self.read()
        while self.read(0.2):
            pass
        return self.process.returncode

    def end_input(self) -> None:
        """Close the other end of its input alone, which it was opened with ``own_input`` for."""
        os.close(self._keys)
        self._keys = -1

    def hang_up(self) -> None:
        os.close(self.inner)
        os.close(self._main)
        self._main = self.inner = -1

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was: its modes, its screen and its cursor."""
        last = self.written.rindex
        shown = last(b"\x1b[?1049l") > last(b"\x1b[?1049h") and last(b"\x1b[?25h") > last(b"\x1b[?25l")
        return shown and termios.tcgetattr(self.inner)[:4] == self.before[:4]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for handle in (self._main, self.inner, self._keys):
            if handle >= 0:
                os.close(handle)


def plain(written: bytes) -> bytes:
    """What was written, without what :data:`ALLOWED` names."""
    return ALLOWED.sub(b"", written)


@contextlib.contextmanager
def terminal(
    workspace: Path, home: Path, columns: int = 120, rows: int = 36, code: str = "", own_input: bool = False, **more: str
) -> Iterator[Terminal]:
    opened = Terminal(workspace, home, columns, rows, code, own_input, **more)
    try:
        yield opened
    finally:
        opened.close()


def open_in_terminal(screen: Terminal, mode: str) -> None:
    tab, name = ROOMS[ROOMS[mode].inside or mode].name, ROOMS[mode].name  # a room without a tab has its name in a heading
    start = len(screen.written)
    screen.press(ROOMS[mode].key)
    screen.until(f"▎{tab}", start)
    screen.until(name, start)
