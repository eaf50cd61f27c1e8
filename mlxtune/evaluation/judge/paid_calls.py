"""Calls to a model that may cost money. Each is journaled before it is made and after it returns, so that no reply is paid for twice."""

import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.journal import Journal, read
from mlxtune.evaluation.judge.endpoint import CostMeter, ReplyLost

MAX_LOST_IN_A_ROW = 3  # lost replies after which the endpoint is considered down


@dataclass(frozen=True)
class PaidCall:
    key: str  # in the journal
    labels: dict[str, str]  # that describe it there
    worst: float  # its highest possible cost in dollars
    ask: Callable[[], Any]  # makes it, and returns the reply as JSON


@dataclass(frozen=True)
class CallLog:
    """The replies by key, the keys of calls without one (which may have been billed), and the maximum amount spent in dollars."""

    replies: dict[str, Any]
    lost: frozenset[str]
    spent: float


def read_calls(file: Path) -> CallLog:
    """Read the journal of calls. A call that was sent before a crash counts as lost, at its worst-case cost, unless it was free."""
    replies: dict[str, Any] = {}
    open: dict[str, float] = {}
    lost = set[str]()
    spent = 0.0
    for entry in read(file):
        match entry:
            case {"key": str(key), "asked": True, "worst": int(worst) | float(worst)}:
                spent += open.get(key, 0.0)
                open[key] = worst
            case {"key": str(key), "reply": str() | dict() as reply, "spent": int(cost) | float(cost)}:
                replies[key] = reply
                spent += cost
                open.pop(key, None)
            case {"key": str(key), "lost": str(), "spent": int(cost) | float(cost)}:
                lost.add(key)
                spent += cost
                open.pop(key, None)
            case {"key": str(key), "refused": True}:
                open.pop(key, None)
    lost |= {key for key, worst in open.items() if worst}
    return CallLog(replies, frozenset(lost - set(replies)), spent + sum(open.values()))


def make_calls(
    calls: Sequence[PaidCall],
    meter: CostMeter,
    file: Path,
    progress: Callable[[int, int], None],
    *,
    workers: int = 1,
    done: Collection[str] = (),
) -> None:
    """Make those ``calls`` whose key is not in ``done``, ``workers`` at a time, and journal them in ``file``.

    With one worker, they are made in the calling thread. ``meter`` starts at the amount already spent.
    Raises any error from a call, and ``MachineError`` after three lost replies in a row. Replies so far are saved.
    """
    meter.spent = read_calls(file).spent
    remaining, in_a_row = [call for call in calls if call.key not in done], 0
    with Journal(file) as journal, closing(_make_all(remaining, meter, journal, workers)) as replied:
        for count, came in enumerate(replied, len(calls) - len(remaining) + 1):
            progress(count, len(calls))
            in_a_row = 0 if came else in_a_row + 1
            if in_a_row == MAX_LOST_IN_A_ROW:
                hint = "Check the endpoint, then run again; replies are saved."
                raise MachineError(f"{MAX_LOST_IN_A_ROW} replies in a row were lost.", hint=hint)


def _make_all(remaining: Sequence[PaidCall], meter: CostMeter, journal: Journal, workers: int) -> Generator[bool, None, None]:
    """Make each call and yield whether a reply arrived. If closed early, save the replies to calls in flight first."""
    lock, stop = threading.Lock(), threading.Event()
    if workers == 1:
        yield from (_make(call, meter, journal, lock) for call in remaining)
        return

    def work(call: PaidCall) -> bool:
        try:
            return stop.is_set() or _make(call, meter, journal, lock)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "calls") as pool:
        try:
            for done in as_completed([pool.submit(work, call) for call in remaining]):
                yield done.result()
        finally:
            stop.set()


def _make(call: PaidCall, meter: CostMeter, journal: Journal, lock: threading.Lock) -> bool:
    with lock:
        journal.append({"key": call.key, **call.labels, "t": time.time(), "asked": True, "worst": call.worst}, sync=True)
    before = meter.own_spent
    try:
        reply = {"reply": call.ask()}
    except ReplyLost as error:
        reply = {"lost": str(error)}
    except MlxtuneError:  # the endpoint did no work
        with lock:
            journal.append({"key": call.key, "refused": True})
        raise
    with lock:
        journal.append({"key": call.key, **reply, "spent": meter.own_spent - before})
    return "reply" in reply
