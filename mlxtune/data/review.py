"""The review of a source: who decides what about its rows, kept in an append-only journal beside it."""

from __future__ import annotations

import fcntl
import getpass
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, get_args

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import disk_errors, sync_folder
from mlxtune.core.journal import Journal, read
from mlxtune.data.beside import beside
from mlxtune.data.decisions import FORMAT, Event, Keyed, State, Status, Step, fold, now, tags
from mlxtune.data.formats import parse
from mlxtune.data.rows import Preference

Action = Literal["accept", "reject", "skip", "tie", "bad", "swap", "edit", "tag", "note"]
ACTIONS: tuple[Action, ...] = get_args(Action)
VERSION = 1

_NONE: Mapping[str, Any] = MappingProxyType({})
_STATUS: dict[str, Status] = {
    "accept": "accepted", "reject": "rejected", "skip": "skipped", "tie": "tied", "bad": "bad", "swap": "accepted",
}  # fmt: skip


def journal_path(source: Path) -> Path:
    """Where the journal of ``source`` lies: ``support.review.jsonl`` beside ``support.jsonl``."""
    return beside(source, "review.jsonl")


def load(source: Path) -> State:
    """What has been decided about ``source``; nothing where there is no journal. Takes no lock and writes nothing.

    Raises ``DataError`` for the journal of a newer mlxtune.
    """
    path = journal_path(source)
    events = read(path)
    if any(event.get("v") != VERSION for event in events):
        raise DataError(f"{path} was written by another version of mlxtune.", mend="Update mlxtune.")
    return fold(events)


def changes(
    action: Action,
    rows: Iterable[Keyed],
    state: State,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    note: str = "",
    record: Mapping[str, Any] | None = None,
    records: Mapping[str, Mapping[str, Any]] = _NONE,
) -> list[dict[str, Any]]:
    """What ``action`` would change, as the ``rows`` of an event: a preview of it, since rows that stay as they are are left out.

    ``rows`` are the source's own, as :func:`decisions.keyed` gives them. ``tag`` takes ``add`` and ``remove``, ``note`` takes
    ``note``, ``edit`` takes ``record``, the row's whole new content, or ``records``, that of each row by its key. Raises ``DataError`` for a record that is no row of the same
    kind, and for a pair's verdict on what is no pair.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, row in rows:
        held = state.of(key)
        inherited = key not in state.decisions and (held.status != "pending" or held.tags is not None or bool(held.note))
        current = now(row, held)
        told: dict[str, Any] = {"status": _STATUS[action]} if action in _STATUS else {}
        after = current
        if action in ("swap", "tie", "bad") and not isinstance(row, Preference):
            raise DataError(
                f"{row.place}: only a pair can be called {action}, and this is none.", mend="Accept, reject or skip it."
            )
        if action == "swap":
            assert isinstance(current, Preference)
            after = replace(current, chosen=current.rejected, rejected=current.chosen)
        elif action == "edit":
            after = parse(records.get(key, record), row.place, FORMAT[type(row)])
        elif action == "tag":
            kept = [tag for tag in tags(current) if tag not in remove]
            told["tags"] = [*kept, *(tag for tag in dict.fromkeys(add) if tag not in kept)]
        elif action == "note":
            told["note"] = note
        if after.hash != current.hash:
            told["record"] = None if after.hash == row.hash else after.content
        same = {"status": held.status, "tags": list(tags(current)), "note": held.note}
        if any(name == "record" or value != same[name] for name, value in told.items()):
            own = {"status": held.status, "tags": same["tags"], "note": held.note} if inherited else {}
            found[key] = {"row": key, "before": current.hash, "after": after.hash, **own, **told}
    return list(found.values())


class Review:
    """The deciding end, for as long as a window is open: it alone may write the journal.

    Every decision is on disk before its method returns.
    """

    def __init__(self, source: Path, *, who: str = "") -> None:
        """Open the journal of ``source``; ``who`` is the login name unless given.

        Raises ``InputError`` when another window holds it, ``DataError`` as :func:`load` does, ``MachineError`` when it may not be
        written.
        """
        self.source = source
        self.who = who or _login()
        path = journal_path(source)
        with disk_errors(path.name):
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.state = load(source)
            self._journal = Journal(path)
            sync_folder(path.parent)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InputError(
                f"{source.name} is under review in another window.",
                mend="Close that one; looking without deciding is always possible.",
            ) from error
        except BaseException:
            os.close(self._lock)
            raise

    def decide(self, action: Action, rows: Iterable[Keyed], *, reason: str = "", **more: Any) -> Step | None:
        """Take one decision on ``rows`` of the source, as :func:`changes` says; ``None`` when it changes nothing.

        Raises ``DataError`` as :func:`changes` does, ``MachineError`` when the disk is full; then nothing was decided.
        """
        found = changes(action, rows, self.state, **more)
        if not found:
            return None
        self._append({"action": action, "reason": reason, "rows": found})
        return self.state.done[-1]

    def undo(self) -> Step | None:
        """Take the newest decision back, in one piece; ``None`` when there is none. Undone decisions wait for :meth:`redo`."""
        if not self.state.done:
            return None
        self._append({"action": "undo", "reason": "", "undoes": self.state.done[-1].seq})
        return self.state.undone[-1]

    def redo(self) -> Step | None:
        """Let the decision that was undone last hold again; ``None`` when there is none, or another was taken since."""
        if not self.state.undone:
            return None
        self._append({"action": "redo", "reason": "", "redoes": self.state.undone[-1].seq})
        return self.state.done[-1]

    def _append(self, fields: Event) -> None:
        event = {"v": VERSION, "seq": self.state.next, "t": round(time.time(), 3), "who": self.who, **fields}
        self._journal.append(event)
        self.state = fold([event], self.state)  # it is in the file, whatever becomes of the flush
        self._journal.sync()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()
        os.close(self._lock)

    def __enter__(self) -> Review:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        return str(os.getuid())
