"""A judge at work: every question and reply in an append-only journal, so that nothing paid for is asked again.

A session is a folder in the evaluation: ``session.json`` (what was fixed before the first question, consent among it),
``calls.jsonl`` (a line before each question and one after it) and ``report.json``.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
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


def run(session: Session, asker: Asker, meter: Meter, progress: Callable[[int, int], None]) -> dict[str, Verdict]:
    """Ask what was not asked yet; every verdict by its call's key.

    A question that was sent before a crash and has no reply may be on the bill: it counts at its worst and is not asked again.
    Raises ``InputError`` before rows leave this machine without consent, what ``asker`` raises, and ``MachineError`` when three
    replies in a row are lost. Everything asked before is kept.
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
            for at, call in enumerate(due, len(calls) - len(due)):
                progress(at, len(calls))
                meter.allow(call.messages)
                in_a_row = 0 if _ask(call, asker, meter, journal) else in_a_row + 1
                if in_a_row == LOST_IN_A_ROW:
                    raise MachineError(
                        f"{LOST_IN_A_ROW} replies in a row were lost.",
                        mend="What was asked is kept; look at the endpoint, then run it again.",
                    )
            progress(len(calls), len(calls))
            if due:
                rows = [row.id for row in session.rows]
                ledger.record(ledger.ledger(session.evaluation), "judge", session.evaluation.name, rows)
        finally:
            journal.close()
    return verdicts(session)


def _ask(call: Call, asker: Asker, meter: Meter, journal: Journal) -> bool:
    """Ask and write down; whether a reply came."""
    before = meter.spent
    entry: dict[str, Any] = {"key": call.key, "row": call.row, "subject": call.subject}
    journal.append({**entry, "t": time.time(), "asked": True, "worst": meter.worst(call.messages)})
    journal.sync()
    try:
        reply = asker(call.messages)
    except Lost as error:
        journal.append({"key": call.key, "lost": str(error), "spent": meter.spent - before})
        return False
    except MlxtuneError:  # the endpoint did no work
        journal.append({"key": call.key, "refused": True})
        raise
    journal.append({"key": call.key, "reply": reply, "spent": meter.spent - before})
    return True


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
