"""The review of a source: decisions about its rows, in an append-only journal next to it.

Every event in the journal has ``v`` (1), ``seq`` (0, 1, 2 …), ``t`` (seconds since the epoch), ``who``, ``action`` and ``reason``.

    accept reject skip     rows: [{row, before, after, status}]
    tie bad                the same, for pairs: both answers are equally good, or both are bad
    swap                   the same plus record: the answers are swapped, and the pair is accepted
    edit                   rows: [{row, before, after, record}]
    tag                    rows: [{row, before, after, tags}], all tags that the row now has
    note                   rows: [{row, before, after, note}]
    mute unmute            checks: [check]; their findings are not reported for this source; reason says why
    dismiss                rows: [{row, before, after, dismissed}], the checks whose findings among these rows are not reported again
    apply                  rows: [{row, before, after, and any of status, tags, meta, record}]; reason is the pipeline
    undo                   undoes: the ``seq`` of the decision to undo
    redo                   redoes: the ``seq`` of the decision to apply again

``who`` is the annotator. The newest decision counts; those of each annotator are kept, so that two of them can be compared.

``row`` is the row's key in its file: the hash of its content there, followed by ``#2`` for the second of several copies.
``before`` and ``after`` are content hashes. They differ after an edit, and ``record`` is then the whole new content, or null if the
source's own content is restored; ``meta`` is the whole new metadata without tags, or null. One event is one decision, no matter how many rows it has, so it is undone as a unit.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import Closeable, disk_errors, home, require_version, sync_folder
from mlxtune.core.hashing import sha256_json
from mlxtune.core.journal import Journal, read
from mlxtune.core.sequences import grouped
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.readers.formats import CONTENT_FORMATS, parse
from mlxtune.data.rows import REVIEW_STATUS, TAG_KEYS, Preference, Row, RowError, row_tags
from mlxtune.data.source_files import sidecar_path

Status = Literal["pending", "accepted", "rejected", "skipped", "tied", "bad"]
STATUSES: tuple[Status, ...] = get_args(Status)
EXCLUDED: frozenset[Status] = frozenset({"rejected", "tied", "bad"})  # never used for training or exported
Action = Literal["accept", "reject", "skip", "tie", "bad", "swap", "edit", "tag", "note", "dismiss", "apply"]
VERSION = 1

Event = dict[str, Any]
KeyedRow = tuple[str, Row | RowError]  # an unreadable record can be edited or rejected

_UNDECIDED: frozenset[Status] = frozenset({"pending", "skipped"})
ACTION_STATUS: dict[str, Status] = {  # the status that an action gives a row
    "accept": "accepted", "reject": "rejected", "skip": "skipped", "tie": "tied", "bad": "bad", "swap": "accepted",
}  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """The decision about the row with key ``row``. ``tags``, ``meta`` and ``record`` are ``None`` unless they replace the source's own.

    ``after`` is the hash of the content after edits. ``by`` has the newest status that each annotator gave the row, and ``status``
    is the newest of them.
    """

    row: str
    after: str
    status: Status = "pending"
    tags: tuple[str, ...] | None = None
    note: str = ""
    record: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    dismissed: tuple[str, ...] = ()
    by: tuple[tuple[str, Status], ...] = ()

    @property
    def is_undecided(self) -> bool:
        return self.status in _UNDECIDED

    @property
    def is_disputed(self) -> bool:
        """Whether the newest decisions of two annotators differ. A skipped row has none."""
        return len({status for _, status in self.by if status not in _UNDECIDED}) > 1

    def seen_by(self, annotator: str) -> Decision:
        """Return the decision with the status that ``annotator`` gave the row, whatever others decided."""
        return replace(self, status=dict(self.by).get(annotator, "pending"))

    @property
    def is_empty(self) -> bool:
        nothing = (self.tags, self.record, self.meta) == (None, None, None)
        return self.status == "pending" and not self.note and not self.dismissed and nothing


NO_DECISION = Decision("", "")


def is_left_out(row: Row, decision: Decision) -> bool:
    """Return whether ``row`` is rejected, here or in the tool that it comes from, or a proposal that has not been accepted."""
    is_proposal = lineage_of(row) is not None or row.meta.get(REVIEW_STATUS) in ("rejected", "skipped")
    return decision.status in EXCLUDED or (decision.status != "accepted" and is_proposal)


def is_resolved(check: str, rows: Sequence[int], decisions: Mapping[int, Decision]) -> bool:
    """Return whether a finding of ``check`` about several ``rows``, the one to fix first, no longer needs a decision.

    It was dismissed for all of them, or only the first row is left. ``decisions`` are indexed by row.
    """
    if len(rows) < 2 or not decisions:
        return False
    own = [decisions.get(row, NO_DECISION) for row in rows]
    return all(check in one.dismissed for one in own) or all(one.status in EXCLUDED for one in own[1:])


@dataclass(frozen=True)
class ReviewStep:
    """One decision event, with each row's decision before (or ``None``) and after it, or the ``checks`` that it mutes."""

    seq: int
    action: str
    who: str
    t: float
    reason: str
    changes: tuple[tuple[Decision | None, Decision], ...]
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReviewState:
    """A snapshot of a review. ``decisions`` is indexed by row key. In ``steps`` and ``undone_steps``, the newest step is last."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    steps: tuple[ReviewStep, ...] = ()
    undone_steps: tuple[ReviewStep, ...] = ()
    next_seq: int = 0

    @cached_property
    def _edited(self) -> dict[str, Decision]:
        return {decision.after: decision for decision in self.decisions.values() if decision.record is not None}

    @cached_property
    def muted(self) -> Mapping[str, str]:
        muted: dict[str, str] = {}
        for step in self.steps:
            for check in step.checks:
                muted.pop(check, None)
                if step.action == "mute":
                    muted[check] = step.reason
        return muted

    @cached_property
    def affected_keys(self) -> frozenset[str]:
        """The keys of the rows that may have a decision."""
        return frozenset(self.decisions) | self._edited.keys()

    def decision(self, key: str) -> Decision:
        """Return the decision about a row of the source. A row that is identical to the edit of an older row inherits its decision."""
        decision = self.decisions.get(key)
        if decision is None and (edited := self._edited.get(key)):
            decision = replace(edited, row=key, record=None)
        return decision or Decision(key, key.partition("#")[0])

    def orphans(self, keys: Iterable[str]) -> list[Decision]:
        """Return the decisions about rows that are no longer among ``keys``, in neither their original nor their edited form."""
        existing = set(keys)
        return [item for item in self.decisions.values() if item.row not in existing and item.after not in existing]


def apply_events(events: Iterable[Event], state: ReviewState | None = None) -> ReviewState:
    """Return ``state`` (or a new state) after applying ``events``.

    Undo and redo apply only in stack order. Invalid events are skipped, but their numbers are not reused.
    """
    state = state or ReviewState()
    decisions, steps, undone = dict(state.decisions), list(state.steps), list(state.undone_steps)
    next_seq = state.next_seq
    for event in events:
        seq = event.get("seq")
        if not isinstance(seq, int):
            continue
        next_seq = max(next_seq, seq + 1)
        match event.get("action"):
            case "undo":
                if steps and steps[-1].seq == event.get("undoes"):
                    undone.append(steps.pop())
                    for before, after in reversed(undone[-1].changes):
                        if before is None:
                            del decisions[after.row]
                        else:
                            decisions[after.row] = before
            case "redo":
                if undone and undone[-1].seq == event.get("redoes"):
                    steps.append(undone.pop())
                    decisions |= {after.row: after for _, after in steps[-1].changes}
            case _:
                if step := _parse_step(event, decisions):
                    steps.append(step)
                    undone.clear()
                    decisions |= {after.row: after for _, after in step.changes}
    return ReviewState(decisions, tuple(steps), tuple(undone), next_seq)


_FIELDS: dict[str, Callable[[Any], Any]] = {  # of a change, as they are read from the journal
    "tags": lambda tags: tuple(map(str, tags)),
    "note": str,
    "record": lambda record: None if record is None else dict(record),
    "dismissed": lambda checks: tuple(map(str, checks)),
    "meta": lambda meta: None if meta is None else dict(meta),
}


def _parse_step(event: Event, decisions: Mapping[str, Decision]) -> ReviewStep | None:
    changes = {}
    try:
        who, t, reason = str(event["who"]), float(event["t"]), str(event["reason"])
        checks = tuple(map(str, event["checks"])) if event["action"] in ("mute", "unmute") else ()
        for change in event["rows"] if not checks else ():
            before = decisions.get(change["row"])
            after = replace(before or Decision(change["row"], change["before"]), after=change["after"])
            if "status" in change:
                status = STATUSES[STATUSES.index(change["status"])]
                after = replace(after, status=status, by=tuple((dict(after.by) | {who: status}).items()))
            after = replace(after, **{name: read(change[name]) for name, read in _FIELDS.items() if name in change})
            changes[after.row] = (before, after)
        return ReviewStep(event["seq"], event["action"], who, t, reason, tuple(changes.values()), checks)
    except (KeyError, TypeError, ValueError):
        return None


def judgments(decisions: Iterable[Decision]) -> dict[tuple[str, str], list[tuple[Status, Status]]]:
    """Return what two annotators decided on the rows that both decided on, by the names of the two, in order."""
    decided = (sorted((name, status) for name, status in decision.by if status not in _UNDECIDED) for decision in decisions)
    both = (pair for own in decided for pair in combinations(own, 2))
    return dict(sorted(grouped(((one, other), (first, second)) for (one, first), (other, second) in both).items()))


def key_of_copy(hash: str, number: int) -> str:
    """Return the key of a row that is number ``number`` (from 1) among its copies in a source.

    Copies are numbered, so that removing one keeps the decisions of the others.
    """
    return hash if number == 1 else f"{hash}#{number}"


def apply_decision(row: Row | DataError, decision: Decision) -> Row:
    """Return ``row`` with edited content and tags. Raises ``DataError`` if it, or the record in the journal, is invalid."""
    if isinstance(row, DataError):
        if decision.record is None or not isinstance(row, RowError):
            raise row
        row = parse(decision.record, row.location)
    meta = row.meta
    if decision.meta is not None:
        meta = {**decision.meta, **{key: value for key, value in row.meta.items() if key in TAG_KEYS}}
    if decision.tags is not None:
        meta = {**meta, "tags": list(decision.tags)}
    if decision.record is None:
        return row if meta is row.meta else replace(row, meta=meta)
    return replace(parse(decision.record, row.location, CONTENT_FORMATS[type(row)]), meta=meta, format=row.format)


@dataclass(frozen=True)
class Change:
    """What an action does besides setting a status."""

    add: Sequence[str] = ()  # tags
    remove: Sequence[str] = ()
    note: str = ""
    record: Mapping[str, Any] | None = None  # the whole new content of an edited row
    edits: Mapping[str, Row | None] = field(default_factory=dict)  # the new row by row key, or ``None`` to reject it
    check: str = ""  # to dismiss


def plan_changes(action: Action, rows: Iterable[KeyedRow], state: ReviewState, what: Change, who: str = "") -> list[dict[str, Any]]:
    """Return the changes that ``action`` of ``who`` makes, as the ``rows`` of an event, without rows that stay the same.

    A status that another annotator gave the row is a change if ``who`` has not given it. ``rows`` are the original rows with their
    keys. Raises ``DataError`` for a record that is not a row of the same kind, and for a pair action on a row that is
    not a pair.
    """
    result: dict[str, dict[str, Any]] = {}
    for key, row in rows:
        decision = state.decision(key)
        current = row if isinstance(row, RowError) and decision.record is None else apply_decision(row, decision)
        after, change = _edited(action, key, row, current, decision, what)
        if after.hash != current.hash:
            assert not isinstance(after, RowError)
            change["record"] = None if after.hash == row.hash else after.content
        agrees = all(name == who for name, _ in decision.by) or dict(decision.by).get(who) == decision.status
        tags = [] if isinstance(current, RowError) else list(row_tags(current))
        same = {
            "status": decision.status if agrees else "",
            "tags": tags,
            "note": decision.note,
            "dismissed": list(decision.dismissed),
        }
        change = {name: value for name, value in change.items() if name not in same or value != same[name]}
        if change:
            inherited = same | {"status": decision.status} | ({} if decision.meta is None else {"meta": decision.meta})
            is_inherited = key not in state.decisions and not decision.is_empty
            result[key] = {"row": key, "before": current.hash, "after": after.hash, **(inherited if is_inherited else {}), **change}
    return list(result.values())


def _edited(
    action: Action, key: str, row: Row | RowError, current: Row | RowError, decision: Decision, what: Change
) -> tuple[Row | RowError, dict[str, Any]]:
    """Return ``current``, the row as reviewed so far, after ``action``, and the fields of the decision that it sets."""
    change: dict[str, Any] = {"status": ACTION_STATUS[action]} if action in ACTION_STATUS else {}
    after = current
    if isinstance(current, RowError):
        if action == "edit" or what.edits.get(key):
            repaired = what.edits.get(key) or parse(what.record, row.location)
            return repaired, {"tags": list(row_tags(repaired)), "meta": _untagged(repaired.meta)}
        if action not in ("reject", "apply"):
            raise current
        return current, {"status": "rejected"}
    meta = {} if isinstance(row, RowError) else _untagged(row.meta)
    if action in ("swap", "tie", "bad") and not isinstance(row, Preference):
        raise DataError(f"{row.location}: {action} applies only to pairs.", hint="Accept, reject or skip it.")
    match action:
        case "swap":
            assert isinstance(current, Preference)
            after = replace(current, chosen=current.rejected, rejected=current.chosen)
        case "edit":
            after = what.edits.get(key) or parse(what.record, row.location, CONTENT_FORMATS[type(current)])
        case "apply" if what.edits[key] is None:
            change["status"] = "rejected"
        case "apply":
            after = edited = what.edits[key] or current
            change["tags"] = list(row_tags(edited))
            if _untagged(edited.meta) != _untagged(current.meta):
                change["meta"] = None if _untagged(edited.meta) == meta else _untagged(edited.meta)
        case "tag":
            tags = [tag for tag in row_tags(current) if tag not in what.remove]
            change["tags"] = [*tags, *(tag for tag in dict.fromkeys(what.add) if tag not in tags)]
        case "note":
            change["note"] = what.note
        case "dismiss":
            change["dismissed"] = list(dict.fromkeys((*decision.dismissed, what.check)))
    return after, change


def _untagged(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key not in TAG_KEYS}


def journal_path(source: Path) -> Path:
    """Return the path of the review journal: ``support.review.jsonl`` next to ``support.jsonl``."""
    return sidecar_path(source, "review.jsonl")


def load(source: Path, *, entries: int | None = None) -> ReviewState:
    """Load the review of ``source``, or an empty one, without a lock. Raises ``InputError`` if another version wrote the journal.

    ``entries`` loads it as it was when its journal had that many entries.
    """
    return apply_events(_read_events(journal_path(source))[:entries])


def _read_events(path: Path) -> list[Event]:
    events = read(path)
    for event in events:
        require_version(event.get("v"), VERSION, path, hint="Use the version that wrote it.")
    return events


class ReviewSession(Closeable):
    """Exclusive write access to a source's journal. Every decision is on disk before its method returns.

    Git, sync tools and editors may replace the journal while it is open. The session then adopts the new content, and appends its
    own decisions that the new content lacks: see :meth:`synchronize`.
    """

    def __init__(self, source: Path, *, who: str = "") -> None:
        """Open the journal of ``source``; ``who`` defaults to the login name.

        Raises ``InputError`` if another process has it open, ``DataError`` like :func:`load`, ``MachineError`` if it is not writable.
        """
        self.source = source
        self.who = who or _login_name()
        self._path = journal_path(source)
        self._own_events: list[Event] = []
        self._new_numbers: dict[int, int] = {}  # new numbers of own decisions that were appended again, by old number
        self._is_synchronized = True
        with ExitStack() as undo:
            # Another window could lock the new file after the journal was replaced, so a file that nobody replaces is locked as well.
            lock = home() / "locks" / f"review-{sha256_json(str(self._path.resolve()))[:16]}"
            with suppress(OSError):  # without a writable home folder, the journal's own lock has to do
                lock.parent.mkdir(parents=True, exist_ok=True)
                undo.callback(os.close, self._lock(lock))
            self._journal_lock = -1
            undo.callback(self._unlock_journal)
            self._lock_journal()
            self.state = load(source)
            self._journal = Journal(self._path)
            sync_folder(self._path.parent)
            self._locks = undo.pop_all()

    def _lock(self, path: Path) -> int:
        """Lock the file at ``path``, which is created if necessary. Raises ``InputError`` if another process has locked it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(handle)
            if not isinstance(error, BlockingIOError):
                raise
            hint = "Close it to make decisions here, or only view the rows."
            raise InputError(f"{self.source.name} is under review in another window.", hint=hint) from error
        return handle

    def _lock_journal(self) -> None:
        with disk_errors(self._path.name):
            handle = self._lock(self._path)
        self._unlock_journal()
        self._journal_lock = handle

    def _unlock_journal(self) -> None:
        if self._journal_lock >= 0:
            os.close(self._journal_lock)

    def synchronize(self) -> bool:
        """Adopt what another program wrote to the journal, if it did. Return whether the state has changed.

        This session's decisions that are no longer in the journal are appended again, with new numbers. Raises ``InputError`` if
        another process has locked the new journal, ``DataError`` like :func:`load`, ``MachineError`` if it is not writable.
        """
        if self._journal.is_current and self._is_synchronized:
            return False
        self._is_synchronized = False
        is_replaced = True
        with suppress(FileNotFoundError):
            is_replaced = not os.path.samestat(os.stat(self._path), os.fstat(self._journal_lock))
        if is_replaced:
            self._lock_journal()
        events = _read_events(self._path)
        self._journal.reopen()
        self.state = apply_events(events)
        present = {sha256_json(event) for event in events}
        for index, event in enumerate(self._own_events):
            if sha256_json(event) not in present:
                seq = self._new_numbers[event["seq"]] = self.state.next_seq
                event = event | {"seq": seq}
                for name in event.keys() & {"undoes", "redoes"}:
                    event[name] = self._new_numbers.get(event[name], event[name])
                self._own_events[index] = self._write(event)
        self._journal.sync()
        self._is_synchronized = True
        return True

    def decide(self, action: Action, rows: Iterable[KeyedRow], *, reason: str = "", **options: Any) -> ReviewStep | None:
        """Record one decision on ``rows``; ``options`` are those of :class:`Change`. Returns ``None`` if nothing changes.

        Raises ``DataError`` like :func:`plan_changes`. Raises ``MachineError`` if the disk is full; no decision is recorded then.
        """
        self.synchronize()
        changes = plan_changes(action, rows, self.state, Change(**options), self.who)
        return self._append(action, reason, rows=changes) if changes else None

    def mute(self, check: str, reason: str) -> ReviewStep:
        """Stop reporting ``check`` for this source; ``reason`` says why."""
        self.synchronize()
        return self._append("mute", reason, checks=[check])

    def unmute(self, check: str) -> ReviewStep | None:
        """Report the findings of ``check`` again, or return ``None`` if it is not muted."""
        self.synchronize()
        return self._append("unmute", checks=[check]) if check in self.state.muted else None

    def undo(self) -> ReviewStep | None:
        """Undo the most recent decision, or return ``None`` if there is none."""
        self.synchronize()
        return self._append("undo", undoes=self.state.steps[-1].seq) if self.state.steps else None

    def redo(self) -> ReviewStep | None:
        """Redo the last undone decision, or return ``None`` if there is none or a newer decision was made."""
        self.synchronize()
        return self._append("redo", redoes=self.state.undone_steps[-1].seq) if self.state.undone_steps else None

    def _append(self, action: str, reason: str = "", **fields: Any) -> ReviewStep:
        stamp = {"v": VERSION, "seq": self.state.next_seq, "t": round(time.time(), 3), "who": self.who}
        self._own_events.append(self._write({**stamp, "action": action, "reason": reason, **fields}))
        self._journal.sync()
        return (self.state.undone_steps if action == "undo" else self.state.steps)[-1]

    def _write(self, event: Event) -> Event:
        self._journal.append(event)
        self.state = apply_events([event], self.state)  # before the flush: the event is in the file even if that fails
        return event

    def close(self) -> None:
        """Release the locks, and remove the journal if it is empty. Raises the errors of :meth:`synchronize`."""
        try:
            self.synchronize()
            if not os.fstat(self._journal_lock).st_size:
                self._path.unlink()
        finally:
            self._journal.close()
            self._locks.close()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user ID without a name, as in a container
        return str(os.getuid())
