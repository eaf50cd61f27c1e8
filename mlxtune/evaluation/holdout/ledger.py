"""An append-only ledger of every use of held-out rows.

Each evaluation that leads to a choice makes later results on the same rows slightly optimistic. The ledger counts them. Each line
contains the hash of the line before it, so that edits are detected.
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
from mlxtune.runs.locks import file_lock

FILE = "ledger.jsonl"

Kind = Literal["eval", "blind", "judge", "export"]


@dataclass(frozen=True)
class HoldoutHistory:
    """The earlier use of some rows."""

    evaluations: int  # on any of them
    exported: int  # rows, for training
    new: int  # rows since the last evaluation that shared rows
    missing: int
    edited_line: int  # the first line with a wrong hash, or 0
    judged: int = 0  # of the evaluations, those that were blind sessions or a judge's


def ledger_path(evaluation: Path) -> Path:
    """Return the ledger of the workspace that the evaluation folder belongs to."""
    return evaluation.parent / FILE


def record(path: Path, kind: Kind, by: str, rows: Sequence[str], *, result: str = "") -> None:
    """Record that the evaluation ``by`` used ``rows``, given by ID. Raises ``MachineError`` if the disk is full.

    An evaluation that was interrupted after it was recorded is not recorded again, and neither is one with the same ``result``, a hash
    of its answers and contract: it shows nothing that was not known.
    """
    with file_lock(path.with_suffix(".lock"), busy="Another process is writing to the ledger of held-out rows."):
        truncate_torn_line(path)
        lines = _lines(path)
        new = {"kind": kind, "by": by, "rows": sorted(set(rows))}
        entries = [entry for entry in map(_entry, lines) if entry and entry["kind"] == kind == "eval"]
        if any(new.items() <= entry.items() or (result and entry.get("result") == result) for entry in entries):
            return
        journal = Journal(path)
        try:
            journal.append({"v": 1, "t": time.time(), "prev": _hash(lines), **new, **({"result": result} if result else {})})
            journal.sync()
        finally:
            journal.close()


def history(path: Path, rows: Sequence[str]) -> HoldoutHistory:
    """Return the earlier use of ``rows`` according to the ledger at ``path``, which may not exist."""
    current, lines = set(rows), _lines(path)
    evaluations, judged, exported, last, edited_line = 0, 0, set[str](), None, 0
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if not edited_line and (entry is None or entry["prev"] != _hash(lines[: number - 1])):
            edited_line = number
        if entry is None or not (shared := current & set(entry["rows"])):
            continue
        if entry["kind"] == "export":
            exported |= shared
        else:
            evaluations += 1
            if entry["kind"] == "eval":
                last = set(entry["rows"])
            else:  # blind sessions and judges use only some of the rows
                judged += 1
    new, missing = (len(current - last), len(last - current)) if last else (0, 0)
    return HoldoutHistory(evaluations, len(exported), new, missing, edited_line, judged)


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
