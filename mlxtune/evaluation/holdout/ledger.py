"""An append-only ledger of every use of held-out rows.

Each comparison of an adapter on the same rows makes a false *better* more likely. The ledger counts them: a *look* is an evaluation of an
adapter on any of the rows, unless an earlier one had the same answers under the same contract. Each line contains the hash of the line
before it, so that edits are detected. A copy in mlxtune's home folder, per workspace folder, shows whether lines were deleted since.
The lines about the same rows in the copies of other folders are counted, too, except those that a copied workspace has added on its own.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.files import home, write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.core.journal import Journal, truncate_torn_line
from mlxtune.core.json_fields import optional
from mlxtune.evaluation.answers import Answer
from mlxtune.evaluation.evidence import HOLDOUT, read_records, to_jsonl
from mlxtune.runs.locks import file_lock

FILE = "ledger.jsonl"

Kind = Literal["eval", "blind", "judge", "fidelity", "export"]  # fidelity: an exported model answered the rows; export: they were
LedgerState = Literal["whole", "ledger_shortened", "ledger_missing", "ledger_elsewhere"]


@dataclass(frozen=True)
class HoldoutHistory:
    """The earlier use of some rows."""

    evaluations: int  # on any of them
    exported: int  # rows, for training
    new: int  # rows since the last evaluation that shared rows
    missing: int
    edited_line: int  # the first line with a wrong hash, or 0
    judged: int = 0  # of the evaluations, those that were blind sessions or a judge's
    looks: int = 0
    look: int = 0  # the number of the look that this evaluation is; 0 without an adapter
    last_look: bool = False  # at the rows that data.reserve keeps
    ledger: LedgerState = "whole"  # or the home folder has lines about the rows that it lacks
    models: int = optional(0)  # of the evaluations, those of exported models


@dataclass(frozen=True)
class LedgerLines:
    """The lines of a ledger, those of its copy in the home folder that it lacks, and those that only other ledgers have, oldest first."""

    lines: tuple[bytes, ...]
    lost: tuple[bytes, ...] = ()
    elsewhere: tuple[bytes, ...] = ()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return sorted(filter(None, map(_entry, (*self.elsewhere, *self.lost, *self.lines))), key=lambda entry: entry["t"])


def ledger_path(evaluation: Path) -> Path:
    """Return the ledger of the workspace that the evaluation folder belongs to."""
    return evaluation.parent / FILE


def read(path: Path, rows: Iterable[str] = ()) -> LedgerLines:
    """Read the ledger at ``path``, which may not exist, its copy, and what the copies of other ledgers say about ``rows``.

    From a ledger with a common line, only what was written before the copy was begun counts: later, each of the two goes on alone.
    """
    lines, (begun, *copied) = _lines(path), _lines(copy := _copy(path)) or (b"",)
    own, current, elsewhere = set(lines), set(rows), dict[bytes, float]()
    known, since = own.union(copied), entry["t"] if (entry := _entry(begun)) else math.inf
    for others in map(_lines, copy.parent.glob("*.jsonl")):
        limit = math.inf if known.isdisjoint(others) else since
        entries = ((line, entry) for line in others if line not in known and (entry := _entry(line)))
        elsewhere |= {line: entry["t"] for line, entry in entries if entry["t"] <= limit and current & set(entry["rows"])}
    lost = tuple(line for line in copied if line not in own)
    return LedgerLines(lines, lost, tuple(sorted(elsewhere, key=elsewhere.__getitem__)))


def looks(workspace: Path, rows: Sequence[str]) -> int:
    """Return the number of looks at any of ``rows``, given by ID."""
    return history(read(workspace / "evals" / FILE, rows), rows).looks


def record(
    path: Path, kind: Kind, by: str, rows: Sequence[str], *, result: str = "", adapter: str = "", last: bool = False
) -> None:
    """Record that the evaluation ``by`` (of ``adapter``; ``last``: at reserved rows) used ``rows``, given by ID. Raises ``MachineError`` if the disk is full.

    An evaluation that was interrupted after it was recorded is not recorded again, and neither is one with the same ``result``, a hash
    of its answers and contract: it shows nothing that was not known. The same holds for an exported model.
    """
    with file_lock(path.with_suffix(".lock"), busy="Another process is writing to the ledger of held-out rows."):
        truncate_torn_line(path)
        lines = _lines(path)
        new = {"kind": kind, "by": by, "rows": sorted(set(rows))}
        entries = [entry for entry in map(_entry, lines) if entry and entry["kind"] == kind in ("eval", "fidelity")]
        if not any(new.items() <= entry.items() or (result and entry.get("result") == result) for entry in entries):
            more = {name: value for name, value in (("result", result), ("adapter", adapter), ("last", last)) if value}
            with Journal(path) as journal:
                journal.append({"v": 1, "t": time.time(), "prev": _hash(lines), **new, **more}, sync=True)
        with suppress(OSError):  # without a home folder, deleted lines go unnoticed
            known = set(_lines(copy := _copy(path)))
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("ab") as file:
                begun = json.dumps({"v": 1, "t": time.time(), "prev": "", "kind": "begun", "by": "", "rows": []}).encode()
                file.writelines(line + b"\n" for line in (*([] if known else [begun]), *_lines(path)) if line not in known)


def last_look(evaluation: Path, rows: Sequence[str]) -> str:
    """Return the name of an earlier evaluation that was the last look at some of ``rows``; empty if there was none."""
    current, entries = set(rows), read(ledger_path(evaluation), rows).entries
    last = (entry["by"] for entry in entries if entry.get("last") and current & set(entry["rows"]))
    return next((by for by in last if by != evaluation.name), "")


def enter(evaluation: Path, rows: Sequence[str], result: str, adapter: str, *, last: bool = False) -> HoldoutHistory:
    """Record a finished evaluation, write ``holdout.jsonl`` into its folder, and return the use of its rows so far."""
    path = ledger_path(evaluation)
    record(path, "eval", evaluation.name, rows, result=result, adapter=adapter, last=last)
    ledger = read(path, rows)
    lines = [[name, line.decode(errors="surrogateescape")] for name, source in vars(ledger).items() for line in source]
    write_text(evaluation / HOLDOUT, to_jsonl(lines))
    return history(ledger, rows, result)


def _copy(path: Path) -> Path:
    """Return the copy of a ledger: that of its folder, so a workspace that is copied or moved starts one of its own."""
    return home() / "ledgers" / f"{sha256_json(str(path.resolve()))[:16]}.jsonl"


def history(ledger: LedgerLines, rows: Sequence[str], result: str = "") -> HoldoutHistory:
    """Return the earlier use of ``rows`` according to ``ledger``. ``result`` identifies the look that this evaluation is."""
    current, lines = set(rows), ledger.lines
    broken = (at for at, line in enumerate(lines) if (entry := _entry(line)) is None or entry["prev"] != _hash(lines[:at]))
    entries = [entry for entry in ledger.entries if current & set(entry["rows"])]
    used = {_result(entry): entry for entry in entries if entry["kind"] != "export"}
    looks = list(dict.fromkeys(_result(entry) for entry in entries if entry["kind"] != "export" and entry.get("adapter")))
    last = next((set(entry["rows"]) for entry in reversed(entries) if entry["kind"] == "eval"), current)
    edited_line = next(broken, -1) + 1
    return HoldoutHistory(
        len(used), len({row for entry in entries if entry["kind"] == "export" for row in current & set(entry["rows"])}),
        len(current - last), len(last - current), edited_line,
        judged=sum(entry["kind"] in ("blind", "judge") for entry in used.values()),
        looks=len(looks), look=looks.index(result) + 1 if result in looks else 0,
        last_look=any(entry.get("last") and _result(entry) == result for entry in entries),
        ledger=_state(ledger, current, is_edited=edited_line > 0),
        models=sum(entry["kind"] == "fidelity" for entry in used.values()),
    )  # fmt: skip


def _state(ledger: LedgerLines, rows: set[str], *, is_edited: bool) -> LedgerState:
    lost = [entry for entry in map(_entry, ledger.lost) if entry]
    if not any(rows & set(entry["rows"]) for entry in lost):
        return "ledger_elsewhere" if ledger.elsewhere else "whole"
    return "ledger_shortened" if is_edited or lost[0]["prev"] else "ledger_missing"  # the first line is lost


def result_hash(contract: str, answers: Mapping[str, Sequence[Answer]]) -> str:
    """Return what identifies a result: the hash of its contract and of each arm's answers."""
    arms = [(arm, [[answer.id, answer.output, answer.ended] for answer in own]) for arm, own in answers.items()]
    return sha256_json([contract, arms])


def load(evaluation: Path) -> LedgerLines:
    """Load what :func:`enter` wrote; empty if there is no file. Raises ``InputError`` if it is malformed."""
    found: dict[str, list[bytes]] = {"lost": [], "lines": [], "elsewhere": []}

    def read(record: Any) -> None:
        source, line = record
        found[source].append(line.encode(errors="surrogateescape"))

    read_records(evaluation / HOLDOUT, read)
    return LedgerLines(*(tuple(found[source.name]) for source in fields(LedgerLines)))


def _lines(path: Path) -> tuple[bytes, ...]:
    with suppress(OSError):
        data = path.read_bytes()
        return tuple(data[: data.rfind(b"\n") + 1].splitlines())
    return ()


def _hash(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(lines[-1]).hexdigest() if lines else ""


def _result(entry: dict[str, Any]) -> str:
    """Return what tells an entry from one that shows the same."""
    return str(entry.get("result", "")) or sha256_json([entry["kind"], entry["by"], entry["rows"], entry["prev"]])


def _entry(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        match value := json.loads(line):
            case {"t": int() | float(), "prev": str(), "kind": str(), "by": str(), "rows": list(rows)} if all(
                isinstance(row, str) for row in rows
            ):
                return value
    return None
