"""Exit the app when its terminal is gone, and run the user's commands in it.

Closing a terminal, killing tmux, or losing an ssh connection need not send a signal, and Textual cannot exit by itself then: its
input thread spins at the end of the file, and its event loop waits for output that nobody reads. A thread of our own therefore asks
the terminal for its attributes. That fails as soon as the other end is closed, on Linux and on macOS. The thread also reads SIGHUP
from the signal wakeup descriptor, because Python runs signal handlers only in the main thread, which may be blocked.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported
from textual.drivers.linux_driver import LinuxDriver

from mlxtune.core.child_process import kill_children
from mlxtune.core.errors import MachineError
from mlxtune.core.text import one_line

EXIT_CODE = 128 + signal.SIGHUP
_POLL_SECONDS = 0.2
_EXIT_SECONDS = 0.8  # time for the app to exit by itself


def start_watch(save: Callable[[], object]) -> None:
    """End this process once its terminal is gone: by SIGHUP or, if that does not help, by force, after calling ``save``.

    A SIGHUP from elsewhere does the same if it has a Python handler. Must be called in the main thread.
    """
    handles = [stream.fileno() for stream in (sys.__stdin__, sys.__stderr__) if stream and stream.isatty()]
    if handles:
        signals, sender = os.pipe()
        os.set_blocking(sender, False)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(handles, signals, save), name="terminal watch", daemon=True).start()


def _watch(handles: Sequence[int], signals: int, save: Callable[[], object]) -> None:
    try:
        while all(_is_open(handle) for handle in handles) and not _receives_hangup(signals):
            pass
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(_EXIT_SECONDS)
        kill_children()
        saver = threading.Thread(target=save, daemon=True)  # it may wait for a disk or a lock
        saver.start()
        saver.join(_POLL_SECONDS)
    finally:
        os._exit(EXIT_CODE)


def _receives_hangup(signals: int) -> bool:
    readable, _, _ = select.select([signals], [], [], _POLL_SECONDS)
    return bool(readable) and signal.SIGHUP in os.read(signals, 4096)


def _is_open(handle: int) -> bool:
    try:
        termios.tcgetattr(handle)
    except termios.error:
        return False
    return True


def _run_in_loop(loop: asyncio.AbstractEventLoop, handler: Any, *_: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(handler)


class TerminalDriver(LinuxDriver):
    """Textual's driver, but with a single thread that reads keys also after SIGSTOP and SIGCONT.

    Textual's handlers of SIGTSTP and SIGCONT write to the terminal. Here they run in the event loop: within a signal, they could wait
    forever for the lock of the output queue, which the interrupted write holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTSTP, signal.SIGCONT):
            signal.signal(number, partial(_run_in_loop, loop, signal.getsignal(number)))

    def start_application_mode(self) -> None:
        if any(thread.name == "textual-input" for thread in threading.enumerate()):
            self.suspend_application_mode()
        super().start_application_mode()  # type: ignore[no-untyped-call]


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
