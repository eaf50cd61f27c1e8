"""Exit the app when its terminal is gone.

Closing a terminal, killing tmux, or losing an ssh connection need not send a signal, and Textual cannot exit by itself then: its
input thread spins at the end of the file, and its event loop waits for output that nobody reads. A thread of our own therefore asks
the terminal for its attributes. That fails as soon as the other end is closed, on Linux and on macOS.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence

from mlxtune.core.child_process import kill_children

EXIT_CODE = 128 + signal.SIGHUP
_POLL_SECONDS = 0.2
_EXIT_SECONDS = 0.8  # time for the app to exit by itself
_hung_up = threading.Event()


def hang_up() -> None:
    """End this process as if its terminal were gone."""
    _hung_up.set()


def start_watch(save: Callable[[], object]) -> None:
    """End this process once its terminal is gone: by SIGHUP or, if that does not help, by force, after calling ``save``."""
    handles = [stream.fileno() for stream in (sys.__stdin__, sys.__stderr__) if stream and stream.isatty()]
    if handles:
        threading.Thread(target=_watch, args=(handles, save), name="terminal watch", daemon=True).start()


def _watch(handles: Sequence[int], save: Callable[[], object]) -> None:
    while all(_is_open(handle) for handle in handles) and not _hung_up.wait(_POLL_SECONDS):
        pass
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(_EXIT_SECONDS)
    kill_children()
    saver = threading.Thread(target=save, daemon=True)  # it may wait for a disk or a lock
    saver.start()
    saver.join(_POLL_SECONDS)
    os._exit(EXIT_CODE)


def _is_open(handle: int) -> bool:
    try:
        termios.tcgetattr(handle)
    except termios.error:
        return False
    return True
