"""Keep a Mac awake while a worker runs. Its display may still sleep, and closing its lid still puts it to sleep."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

CAFFEINATE = "/usr/bin/caffeinate"  # only macOS has it


@contextlib.contextmanager
def prevent_sleep() -> Iterator[int]:
    """Prevent idle sleep until the context or this process ends, and yield the ID of the process that does so; 0 off macOS."""
    if not os.path.exists(CAFFEINATE):
        yield 0
        return
    process = subprocess.Popen([CAFFEINATE, "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
