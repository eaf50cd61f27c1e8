"""Judge sessions: every question and reply is journaled, so that no question that was paid for is asked again.

A session is a folder in the evaluation: ``session.json`` (the settings and the user's consent), ``calls.jsonl`` (one line before
each question and one after it) and ``report.json``.
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
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.judge import AskJudge, ReplyLost
from mlxtune.evaluation.judge.batch import JudgeCall, batch
from mlxtune.evaluation.judge.endpoint import CostMeter
from mlxtune.evaluation.judge.rubric import DEFAULT, Grade, Rubric, rubric_from_json
from mlxtune.evaluation.paired_answers import AnswerPair, load_pairs
from mlxtune.runs.locks import file_lock

FILE = "session.json"
MAX_LOST_IN_A_ROW = 3  # lost replies after which the endpoint is considered down


@dataclass(frozen=True)
class JudgeSession:
    """A session's settings: two arms' rows, the judge (a model at a host), the rubric, and the seed for the batch."""

    evaluation: Path
    folder: Path
    first: str
    second: str
    rows: tuple[AnswerPair, ...]
    rubric: Rubric
    judge: str
    host: str
    seed: int
    consent: str

    @property
    def calls(self) -> list[JudgeCall]:
        """All questions for the judge, in order."""
        return batch(self.rows, self.rubric, self.seed)


def open_session(
    evaluation: Path, first: str, second: str, rows: Sequence[AnswerPair], rubric: Rubric, *, judge: str, host: str, n: int = 0
) -> JudgeSession:  # fmt: skip
    """Open the session for this judge, rubric and pair of arms, or create one. ``n`` rows are drawn at random; 0 means all.

    ``host`` is where the rows are sent, or empty for this machine. Raises ``InputError`` if there are too few rows.
    """
    if not rows or n > len(rows):
        raise InputError(
            f"Both arms answered only {len(rows)} rows in {evaluation.name}.", hint=f"Use --n {len(rows)} or less." if rows else ""
        )
    fingerprint = sha256_json([judge, host, rubric.hash, n, sorted([row.id, row.first, row.second] for row in rows)])
    name = re.sub(r"[^A-Za-z0-9+-]", "_", f"{first}--{second}--{judge}")[:80]
    folder = evaluation / "judge" / f"{name}-{fingerprint[:8]}"
    file = folder / FILE
    if not file.is_file():
        header = {"v": 2, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "arms": [first, second], "judge": judge, "host": host}
        settings = {"rubric": rubric.hash, **to_json(rubric), "n": n or len(rows), "seed": secrets.randbits(53), "consent": ""}
        write_json(file, {**header, **settings})
    return _load(evaluation, folder, rows, rubric)


def load_session(evaluation: Path, folder: Path) -> JudgeSession | None:
    """Load the session in ``folder``; ``None`` if an older version made it, with a rubric that it does not contain.

    Raises ``InputError`` if the session is damaged or does not match the evaluation.
    """
    match read_json(folder / FILE):
        case {"arms": [str(first), str(second)], "rubric": str(rubric_hash)} as header:
            rubric = rubric_from_json(header) if "questions" in header else DEFAULT
        case _:
            raise _unreadable(folder)
    if rubric.hash != rubric_hash:
        return None
    return _load(evaluation, folder, load_pairs(evaluation, first, second), rubric)


def _load(evaluation: Path, folder: Path, rows: Sequence[AnswerPair], rubric: Rubric) -> JudgeSession:
    match read_json(folder / FILE):
        case {
            "arms": [str(first), str(second)], "judge": str(judge), "host": str(host), "n": int(n), "seed": int(seed),
            "consent": str(consent),
        }:  # fmt: skip
            drawn = sorted(rows, key=lambda row: unit_interval(seed, "row", row.id))[:n]
            return JudgeSession(evaluation, folder, first, second, tuple(drawn), rubric, judge, host, seed, consent)
    raise _unreadable(folder)


def _unreadable(folder: Path) -> InputError:
    return InputError(f"{folder / FILE} is not a judge session that this version can read.")


def record_consent(session: JudgeSession, how: str) -> JudgeSession:
    """Record that the user agreed to send the rows to the session's host, and ``how``; return the session."""
    file = session.folder / FILE
    consent = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} to {session.host}, {how}"
    write_json(file, {**read_json(file), "consent": consent})
    return replace(session, consent=consent)


def load_grades(session: JudgeSession) -> dict[str, Grade]:
    """Return the grades so far, keyed by call key. A question without a reply counts as ``lost``."""
    replies, lost, _ = _state(session.folder)
    grades = {call.key: call.read(replies[call.key]) for call in session.calls if call.key in replies}
    return grades | {key: Grade(None, problem="lost") for key in lost}


def dollars_spent(session: JudgeSession) -> float:
    """Return what the session has cost so far, in dollars."""
    return _state(session.folder)[2]


def run_judge(
    session: JudgeSession, ask: AskJudge, meter: CostMeter, progress: Callable[[int, int], None], *, workers: int = 1
) -> dict[str, Grade]:  # fmt: skip
    """Ask the remaining questions, ``workers`` at a time, and return all grades, keyed by call key.

    With one worker, ``ask`` is called in the calling thread. A question that was sent before a crash may have been billed: its
    worst case is counted and it is not asked again. Raises ``InputError`` without consent to send rows, any error from ``ask``, and
    ``MachineError`` after three lost replies in a row. Replies so far are saved.
    """
    if session.host and not session.consent:
        raise InputError(f"Sending rows to {session.host} needs your consent.", hint="Agree with --send.")
    with file_lock(session.folder / "session.lock", busy_message="Another process is running this judge.", timeout=0.3):
        calls = session.calls
        replies, lost, meter.spent = _state(session.folder)
        journal = Journal(session.folder / "calls.jsonl")
        try:
            remaining = [call for call in calls if call.key not in replies and call.key not in lost]
            in_a_row = 0
            with closing(_ask_all(remaining, ask, meter, journal, workers)) as replied:
                for done, came in enumerate(replied, len(calls) - len(remaining) + 1):
                    progress(done, len(calls))
                    in_a_row = 0 if came else in_a_row + 1
                    if in_a_row == MAX_LOST_IN_A_ROW:
                        raise MachineError(
                            f"{MAX_LOST_IN_A_ROW} replies in a row were lost.",
                            hint="Replies are saved. Check the endpoint, then run again.",
                        )
            if remaining:
                rows = [row.id for row in session.rows]
                ledger.record(ledger.ledger_path(session.evaluation), "judge", session.evaluation.name, rows)
        finally:
            journal.close()
    return load_grades(session)


def _ask_all(
    remaining: Sequence[JudgeCall], ask: AskJudge, meter: CostMeter, journal: Journal, workers: int
) -> Generator[bool, None, None]:
    """Ask each question and yield whether a reply arrived. If closed early, save the replies to questions in flight first."""
    lock, stop = threading.Lock(), threading.Event()
    if workers == 1:
        for call in remaining:
            yield _ask(call, ask, meter, journal, lock)
        return

    def work(call: JudgeCall) -> bool:
        try:
            return stop.is_set() or _ask(call, ask, meter, journal, lock)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "judge") as pool:
        try:
            for done in as_completed([pool.submit(work, call) for call in remaining]):
                yield done.result()
        finally:
            stop.set()


def _ask(call: JudgeCall, ask: AskJudge, meter: CostMeter, journal: Journal, lock: threading.Lock) -> bool:
    """Ask one question, journal it, and return whether a reply arrived."""
    entry: dict[str, Any] = {"key": call.key, "row": call.row, "subject": call.subject}
    with lock:
        journal.append({**entry, "t": time.time(), "asked": True, "worst": meter.worst_case(call.messages)})
        journal.sync()
    before = meter.own_spent
    try:
        reply = {"reply": ask(call.messages)}
    except ReplyLost as error:
        reply = {"lost": str(error)}
    except MlxtuneError:  # the endpoint did no work
        with lock:
            journal.append({"key": call.key, "refused": True})
        raise
    with lock:
        journal.append({"key": call.key, **reply, "spent": meter.own_spent - before})
    return "reply" in reply


def _state(folder: Path) -> tuple[dict[str, str], set[str], float]:
    """Return the replies by key, the keys of lost replies, and the dollars spent."""
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
