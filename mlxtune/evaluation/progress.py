"""Report the progress of a worker's model as it answers prompts."""

import time
from collections.abc import Callable

from mlxtune.core.errors import Interrupted
from mlxtune.runs.worker import Worker

PROGRESS_INTERVAL = 0.5  # seconds between progress events


def progress_reporter(worker: Worker, arm: str, of: str) -> Callable[[int, int], None]:
    """Return a progress callback that emits rate-limited events about ``of`` and honors stop requests."""
    last = 0.0

    def report_progress(done: int, total: int) -> None:
        nonlocal last
        if worker.stopping:
            raise Interrupted(0)
        if done == total or time.monotonic() - last > PROGRESS_INTERVAL:
            last = time.monotonic()
            worker.emit("arm.progress", arm=arm, done=done, total=total, of=of)

    return report_progress
