"""Report the progress of a worker's model as it answers prompts."""

import time
from collections.abc import Callable

from mlxtune.core.errors import Interrupted
from mlxtune.runs.worker import Worker

PROGRESS_INTERVAL = 0.5  # seconds between progress events


def progress_reporter(worker: Worker, arm: str, of: str, *, done_before: int = 0, total: int = 0) -> Callable[[int, int], None]:
    """Return a progress callback that emits rate-limited events about ``of`` and honors stop requests.

    For one batch of ``total`` prompts, ``done_before`` is the number of prompts that earlier batches have answered.
    """
    last = 0.0

    def report_progress(done: int, batch: int) -> None:
        nonlocal last
        if worker.stopping:
            raise Interrupted(0)
        if done == batch or time.monotonic() - last > PROGRESS_INTERVAL:
            last = time.monotonic()
            worker.emit("arm.progress", arm=arm, done=done_before + done, total=total or batch, of=of)

    return report_progress
