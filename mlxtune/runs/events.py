"""The event log of a run: what a worker says, in order, in ``events.jsonl``.

Every line has ``v`` (1), ``seq`` (0, 1, 2 …), ``t`` (seconds since the epoch) and ``type``. The types and their fields:

    run.started      kind ("train", "eval" or "export"), name, base, pid, host, steps
    run.resumed      the same, and step: the checkpoint it goes on from
    model.loaded     base, path (how it computes), parameters, seconds, limit (bytes the machine recommends)
    reference        done, total (pairs that the reference model has scored)
    data.ready       train, valid, test (rows), tokens, trained, truncated (rows), skipped (rows), steps, epochs,
                     checkpointed (whether layers keep only their input)
    step             step, loss, rate, norm (of the gradient, before clipping), tokens (trained, in this step), computed (positions,
                     padding included), speed (trained tokens/s), memory, peak (bytes), epoch,
                     metrics (for preference training: a mean by name, as TRL names them)
    validation       step, loss, tokens, metrics (likewise, and kl from the reference in nats a token)
    sample           step, row, prompt, output, verdict
    checkpoint       step, seconds
    arm.started      arm, rows
    arm.progress     arm, done, total
    arm.finished     arm, rows, cached, seconds
    export.written   form, bytes, seconds
    fidelity         faithful, lost (a share of the adapter's own change), text
    heartbeat        (no fields; every 5 s, from a thread that never touches MLX)
    warning          text
    run.finished     summary
    run.stopped      step, reason (empty when it was asked to)
    run.failed       error, mend, code (the exit code it means; 4 is a fault of ours or the machine's)
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from mlxtune.core.journal import Journal, Tail, read

FILE = "events.jsonl"
TERMINAL = frozenset({"run.finished", "run.stopped", "run.failed"})
_SYNCED = TERMINAL | {"checkpoint", "run.started", "run.resumed"}

Event = dict[str, Any]


class EventWriter:
    """Appends events; safe to call from the heartbeat's thread."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / FILE)
        self._seq = 1 + max((event["seq"] for event in read_all(folder)), default=-1)  # a line that cannot be read left its number
        self._lock = threading.Lock()

    def emit(self, type: str, **fields: Any) -> None:
        """Write one event. Raises ``MachineError`` when the disk is full."""
        with self._lock:
            self._journal.append({"v": 1, "seq": self._seq, "t": round(time.time(), 3), "type": type, **fields})
            self._seq += 1
            if type in _SYNCED:
                self._journal.sync()

    def close(self) -> None:
        self._journal.close()


def tail(folder: Path) -> Tail:
    """A reader that returns a run's new events at each ``read()``."""
    return Tail(folder / FILE)


def read_all(folder: Path) -> list[Event]:
    """Every whole event of a run, oldest first."""
    return read(folder / FILE)
