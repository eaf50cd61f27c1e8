"""Read the progress of blind sessions, and export their votes as preference pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_text
from mlxtune.core.journal import read
from mlxtune.evaluation.blind.blind_session import BlindSession, session_exists, session_folder
from mlxtune.evaluation.blind.votes import HEADLINE_QUESTION, QUESTIONS, preference_rows
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.paired_answers import AnswerPair


@dataclass(frozen=True)
class BlindStatus:
    """A session's progress: its pairs, its votes, the votes it needs, and whether the sides are revealed."""

    pairs: int
    votes: int
    votes_needed: int
    opened: bool


def blind_status(evaluation: Path, first: str, second: str) -> BlindStatus | None:
    """Return the progress of two arms' session, or ``None``, without locking it. Raises ``InputError`` for a damaged file."""
    return read_status(session_folder(evaluation, first, second)) if session_exists(evaluation, first, second) else None


def read_status(folder: Path) -> BlindStatus:
    """Return the progress of the session in ``folder``. Raises ``InputError`` for a damaged file."""
    header = read_json(folder / "session.json")
    try:
        pairs, needed = int(header["n"]), len(header["order"]) * len(QUESTIONS)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} is damaged.", hint="Delete the folder and vote again.") from error
    votes, opened = 0, False
    for entry in read(folder / "votes.jsonl"):
        votes += "vote" in entry
        votes -= bool(entry.get("undo")) and votes > 0
        opened = opened or bool(entry.get("opened"))
    return BlindStatus(pairs, votes, needed, opened)


def count_differing(pairs: Sequence[AnswerPair]) -> int:
    """Return the number of pairs that can be shown because their answers differ."""
    return sum(pair.first != pair.second for pair in pairs)


def export_votes(session: BlindSession, path: Path, question: str = HEADLINE_QUESTION) -> int:
    """Write the votes on ``question`` as preference pairs (JSON Lines), and return their number.

    The ledger records that held-out rows were exported. Raises ``InputError`` before the sides are revealed or if no vote yields a
    pair, and ``MachineError`` if the disk is full.
    """
    votes = session.choices()
    rows = preference_rows(votes, question)
    if not rows:
        raise InputError(f"No vote on “{QUESTIONS[question]}” yields a preference pair: each is a tie or involves an empty answer.")
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    ids = [vote.pair.id for vote in votes if vote.question == question and vote.choice != "tie"]
    ledger.record(ledger.ledger_path(session.evaluation), "export", session.evaluation.name, ids)
    return len(rows)
