"""The sealed hold-out: an append-only ledger of who looked at which held-out rows, and when.

Every look at a hold-out that leads to a choice makes its next result a little too good. The ledger cannot prevent that; it
counts, and says so. Each line carries the hash of the one before it, so that an edited ledger is seen.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.journal import Journal, truncate_torn_line
from mlxtune.core.text import plural
from mlxtune.runs.locks import hold

FILE = "ledger.jsonl"
CLEAN = 2  # looks that an honest study needs: the baseline, and the one adapter it trained

Kind = Literal["eval", "blind", "judge", "export"]


@dataclass(frozen=True)
class Seen:
    """What the ledger knows of some rows.

    ``looks`` at any of them; how many of them were ``exported`` for training; how many rows are ``new`` or ``gone`` since the
    last look that met them; ``edited`` is the first line whose hash is wrong, 0 when the ledger is whole.
    """

    looks: int
    exported: int
    new: int
    gone: int
    edited: int


def ledger(evaluation: Path) -> Path:
    """The ledger of the workspace that the evaluation folder belongs to."""
    return evaluation.parent / FILE


def record(path: Path, kind: Kind, by: str, rows: Sequence[str]) -> None:
    """Append that ``by`` (an evaluation's name) looked at ``rows`` (their ids). Raises ``MachineError`` on a full disk."""
    with hold(path.with_suffix(".lock"), busy="The ledger of looks is being written by another process."):
        truncate_torn_line(path)
        lines = _lines(path)
        journal = Journal(path)
        try:
            journal.append({"v": 1, "t": time.time(), "prev": _hash(lines), "kind": kind, "by": by, "rows": sorted(set(rows))})
            journal.sync()
        finally:
            journal.close()


def seen(path: Path, rows: Sequence[str]) -> Seen:
    """What the ledger at ``path`` says of ``rows``; a missing one knows nothing."""
    asked, lines = set(rows), _lines(path)
    looks, exported, last, edited = 0, set[str](), None, 0
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if not edited and (entry is None or entry["prev"] != _hash(lines[: number - 1])):
            edited = number
        if entry is None or not (met := asked & set(entry["rows"])):
            continue
        if entry["kind"] == "export":
            exported |= met
        else:
            looks += 1
            if entry["kind"] == "eval":  # a blind session or a judge sees a part by design
                last = set(entry["rows"])
    return Seen(looks, len(exported), len(asked - last) if last else 0, len(last - asked) if last else 0, edited)


def sentence(found: Seen) -> str:
    """What that means for a result on these rows, in words: ``Seen 7 times; expect optimism.``"""
    if found.looks <= 1:
        told = ["First look at these rows." if found.looks else "Never seen."]
    else:
        told = [f"Seen {found.looks} times{'; expect optimism' if found.looks > CLEAN else ''}."]
    if found.new or found.gone:
        told.append(f"The hold-out changed since the last look: {plural(found.new, 'row')} new, {found.gone} gone.")
    if found.exported:
        told.append(f"{plural(found.exported, 'row')} exported for training: a model trained on them cannot be tested on them.")
    if found.edited:
        told.append(f"The ledger was edited at line {found.edited}: its count is not to be believed.")
    return " ".join(told)


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data[: data.rfind(b"\n") + 1].splitlines()


def _hash(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(lines[-1]).hexdigest() if lines else ""


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    match value:
        case {"prev": str(), "kind": str(), "rows": list(rows)} if all(isinstance(row, str) for row in rows):
            return value
    return None
