"""Blind sessions from outside: how far one has come, and its votes as preference pairs in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_text
from mlxtune.core.journal import read
from mlxtune.evaluation import ledger
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.ballot import HEADLINE, QUESTIONS, Choice, exported
from mlxtune.evaluation.blind import Session, folder_of


@dataclass(frozen=True)
class Standing:
    """A session that was fixed: its pairs, the votes that stand of those that are ``due``, and whether its seal is open."""

    pairs: int
    votes: int
    due: int
    opened: bool


def standing(evaluation: Path, first: str, second: str) -> Standing | None:
    """How far the session of two arms has come; ``None`` where none was begun. Takes no lock.

    Raises ``InputError`` when its file is broken.
    """
    folder = folder_of(evaluation, first, second)
    return stands(folder) if (folder / "session.json").is_file() else None


def stands(folder: Path) -> Standing:
    """How far the session in ``folder`` has come. Raises ``InputError`` when its file is broken."""
    header = read_json(folder / "session.json")
    try:
        pairs, due = int(header["n"]), len(header["order"]) * len(QUESTIONS)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} is not a blind session of this version.") from error
    votes, opened = 0, False
    for entry in read(folder / "votes.jsonl"):
        votes += "vote" in entry
        votes -= bool(entry.get("undo")) and votes > 0
        opened = opened or bool(entry.get("opened"))
    return Standing(pairs, votes, due, opened)


def uneven(pairs: Sequence[Pair]) -> int:
    """How many of ``pairs`` can be shown: the answers differ."""
    return sum(pair.first != pair.second for pair in pairs)


def export(session: Session, path: Path, question: str = HEADLINE) -> int:
    """Write the decided votes on ``question`` as preference pairs, a JSON object a line; how many there are.

    The ledger keeps note that held-out rows left for training. Raises ``InputError`` while the session is sealed, and where no vote
    makes a pair; ``MachineError`` on a full disk.
    """
    choices: list[tuple[Pair, str, Choice]] = session.choices()
    rows = exported(choices, question)
    if not rows:
        raise InputError(f"No vote on “{QUESTIONS[question]}” makes a pair: all are ties, or one answer is empty.")
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    ids = [pair.id for pair, asked, arm in choices if asked == question and arm != "tie"]
    ledger.record(ledger.ledger(session.evaluation), "export", session.evaluation.name, ids)
    return len(rows)
