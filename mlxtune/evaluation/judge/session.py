"""A judge at work: every question and reply in an append-only journal, so that nothing paid for is asked again.

A session is a folder in the evaluation: ``session.json`` (what was fixed before the first question, consent among it),
``calls.jsonl`` (a line before each question and one after it) and ``report.json``.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.hashing import sha256_json, unit_interval
from mlxtune.core.journal import Journal, read
from mlxtune.evaluation import ledger
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.judge import Asker, Lost
from mlxtune.evaluation.judge.batch import Call, batch
from mlxtune.evaluation.judge.endpoint import Meter
from mlxtune.evaluation.judge.rubric import Rubric, Verdict
from mlxtune.runs.locks import hold

LOST_IN_A_ROW = 3  # and the endpoint is taken for dead, before it costs more


@dataclass(frozen=True)
class Session:
    """What was fixed: two arms' rows, the judge (a model at a host), the rubric, the seed of the batch."""

    evaluation: Path
    folder: Path
    first: str
    second: str
    rows: tuple[Pair, ...]
    rubric: Rubric
    judge: str
    place: str
    seed: int
    consent: str

    @property
    def calls(self) -> list[Call]:
        """Everything the judge is asked, in order."""
        return batch(self.rows, self.rubric, self.seed)


def fix(
    evaluation: Path, first: str, second: str, rows: Sequence[Pair], rubric: Rubric, *, judge: str, place: str, n: int = 0
) -> Session:  # fmt: skip
    """The session of this judge, rubric and these arms: the one there is, or a new one. ``n`` rows are drawn by lot; 0 means all.

    ``place`` is the host that the rows go to, empty for this machine. Raises ``InputError`` when there are too few rows.
    """
    if not rows or n > len(rows):
        raise InputError(
            f"{evaluation.name} has {len(rows)} rows that both arms answered.", mend=f"--n {len(rows)}" if rows else ""
        )
    fingerprint = sha256_json([judge, place, rubric.hash, n, sorted([row.id, row.first, row.second] for row in rows)])
    name = re.sub(r"[^A-Za-z0-9+-]", "_", f"{first}--{second}--{judge}")[:80]
    folder = evaluation / "judge" / f"{name}-{fingerprint[:8]}"
    file = folder / "session.json"
    if not file.is_file():
        header = {"v": 1, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "arms": [first, second], "judge": judge, "host": place}
        write_json(file, {**header, "rubric": rubric.hash, "n": n or len(rows), "seed": secrets.randbits(53), "consent": ""})
    match read_json(file):
        case {"seed": int(seed), "consent": str(consent)}:
            pass
        case _:
            raise InputError(f"{file} is not a judge's session of this version.")
    drawn = sorted(rows, key=lambda row: unit_interval(seed, "row", row.id))[: n or len(rows)]
    return Session(evaluation, folder, first, second, tuple(drawn), rubric, judge, place, seed, consent)


def agree(session: Session, how: str) -> Session:
    """The session, in which it is kept that the user agreed, and ``how``, to the rows' leaving this machine for its host."""
    file = session.folder / "session.json"
    consent = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} to {session.place}, {how}"
    write_json(file, {**read_json(file), "consent": consent})
    return replace(session, consent=consent)


def verdicts(session: Session) -> dict[str, Verdict]:
    """What the judge said so far, by the call's key. A question without a reply is ``lost``."""
    replies, lost, _ = _state(session.folder)
    found = {call.key: call.read(replies[call.key]) for call in session.calls if call.key in replies}
    return found | {key: Verdict(None, problem="lost") for key in lost}


def run(
    session: Session, asker: Asker, meter: Meter, progress: Callable[[int, int], None], *, workers: int = 1
) -> dict[str, Verdict]:  # fmt: skip
    """Ask what was not asked yet, ``workers`` questions at a time; every verdict by its call's key.

    With one worker ``asker`` is called in the calling thread. A question that was sent before a crash and has no reply may be on
    the bill: it counts at its worst and is not asked again. Raises ``InputError`` before rows leave this machine without consent,
    what ``asker`` raises, and ``MachineError`` when three replies in a row are lost. What was asked by then is kept.
    """
    if session.place and not session.consent:
        raise InputError(f"Nobody agreed that rows leave this machine for {session.place}.", mend="Agree with --send.")
    with hold(session.folder / "session.lock", busy="Another process is asking this judge.", patience=0.3):
        calls = session.calls
        replies, lost, meter.spent = _state(session.folder)
        journal = Journal(session.folder / "calls.jsonl")
        try:
            due = [call for call in calls if call.key not in replies and call.key not in lost]
            in_a_row = 0
            with closing(_ask_all(due, asker, meter, journal, workers)) as told:
                for at, came in enumerate(told, len(calls) - len(due) + 1):
                    progress(at, len(calls))
                    in_a_row = 0 if came else in_a_row + 1
                    if in_a_row == LOST_IN_A_ROW:
                        raise MachineError(
                            f"{LOST_IN_A_ROW} replies in a row were lost.",
                            mend="What was asked is kept; look at the endpoint, then run it again.",
                        )
            if due:
                rows = [row.id for row in session.rows]
                ledger.record(ledger.ledger(session.evaluation), "judge", session.evaluation.name, rows)
        finally:
            journal.close()
    return verdicts(session)


def _ask_all(due: Sequence[Call], asker: Asker, meter: Meter, journal: Journal, workers: int) -> Generator[bool, None, None]:
    """Ask each call; yields, as they are done, whether a reply came. Closed early, it waits for what is in the air and keeps it."""
    lock, stop = threading.Lock(), threading.Event()
    if workers == 1:
        for call in due:
            yield _ask(call, asker, meter, journal, lock)
        return

    def work(call: Call) -> bool:
        try:
            return stop.is_set() or _ask(call, asker, meter, journal, lock)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "judge") as pool:
        try:
            for done in as_completed([pool.submit(work, call) for call in due]):
                yield done.result()
        finally:
            stop.set()


def _ask(call: Call, asker: Asker, meter: Meter, journal: Journal, lock: threading.Lock) -> bool:
    """Ask and write down; whether a reply came."""
    entry: dict[str, Any] = {"key": call.key, "row": call.row, "subject": call.subject}
    with lock:
        journal.append({**entry, "t": time.time(), "asked": True, "worst": meter.worst(call.messages)})
        journal.sync()
    before = meter.mine
    try:
        reply = {"reply": asker(call.messages)}
    except Lost as error:
        reply = {"lost": str(error)}
    except MlxtuneError:  # no work was done
        with lock:
            journal.append({"key": call.key, "refused": True})
        raise
    with lock:
        journal.append({"key": call.key, **reply, "spent": meter.mine - before})
    return "reply" in reply


def _state(folder: Path) -> tuple[dict[str, str], set[str], float]:
    """Replies by key, keys whose reply was lost, and dollars spent."""
    replies: dict[str, str] = {}
    open: dict[str, float] = {}
    spent = 0.0
    lost = set[str]()
    for entry in read(folder / "calls.jsonl"):
        match entry:
            case {"key": str(key), "asked": True, "worst": int(worst) | float(worst)}:
                open[key] = worst
            case {"key": str(key), "reply": str(reply), "spent": int(cost) | float(cost)}:
                replies[key] = reply
                spent += cost
                open.pop(key, None)
            case {"key": str(key), "lost": str(), "spent": int(cost) | float(cost)}:
                lost.add(key)
                spent += cost
                open.pop(key, None)
            case {"key": str(key), "refused": True}:
                open.pop(key, None)
    return replies, lost | set(open), spent + sum(open.values())
