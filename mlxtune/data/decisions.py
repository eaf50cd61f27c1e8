"""What a review has decided about the rows of a source: a pure fold over the events of its journal.

Every event has ``v`` (1), ``seq`` (0, 1, 2 …), ``t`` (seconds since the epoch), ``who``, ``action`` and ``reason``.

    accept reject skip     rows: [{row, before, after, status}]
    tie bad                the same, for pairs: both are as good, both are bad
    swap                   the same, and record: the answers change sides, and the pair is accepted
    edit                   rows: [{row, before, after, record}]
    tag                    rows: [{row, before, after, tags}], all tags that the row has from now on
    note                   rows: [{row, before, after, note}]
    undo                   undoes: the ``seq`` of the decision that no longer holds
    redo                   redoes: the ``seq`` of the decision that holds again

``row`` is the key of the row in its file: the hash of its content there, and for the second of several copies the hash and ``#2``.
``before`` and ``after`` are the hashes of what it says: they differ when it was edited, and ``record`` is then its whole new content, or
null when the source's own words are back. One event is one decision, however many rows it has, so it is undone as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from mlxtune.data.formats import parse
from mlxtune.data.rows import Conversation, Place, Preference, Row, Text, Unpaired

Status = Literal["pending", "accepted", "rejected", "skipped", "tied", "bad"]
STATUSES: tuple[Status, ...] = get_args(Status)
OUT: frozenset[Status] = frozenset({"rejected", "tied", "bad"})  # these never train and are never exported

FORMAT: dict[type[Row], str] = {Conversation: "chat", Text: "text", Preference: "preference", Unpaired: "unpaired"}  # of a content

Event = dict[str, Any]
Keyed = tuple[str, Row]


@dataclass(frozen=True)
class Decision:
    """What holds for the row with the key ``row``. ``tags`` is ``None``, and ``record`` too, where the source's own hold."""

    row: str
    after: str
    status: Status = "pending"
    tags: tuple[str, ...] | None = None
    note: str = ""
    record: dict[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """One decision as it was taken: its event, and for each row what held before (``None``: nothing) and after."""

    seq: int
    action: str
    who: str
    t: float
    reason: str
    changes: tuple[tuple[Decision | None, Decision], ...]


@dataclass(frozen=True)
class State:
    """A snapshot of a review. ``decisions`` goes by the rows' keys; ``done`` and ``undone`` have the newest last."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()
    next: int = 0  # the ``seq`` of the next event

    @cached_property
    def _edited(self) -> dict[str, Decision]:
        return {decision.after: decision for decision in self.decisions.values() if decision.record is not None}

    @cached_property
    def touched(self) -> frozenset[str]:
        """The hashes of which some row, the first that has it or a copy, may have been decided upon."""
        return frozenset(key.partition("#")[0] for key in self.decisions) | self._edited.keys()

    def of(self, key: str) -> Decision:
        """What holds for a row of the source. One that now says what an older one was edited to inherits what holds for that."""
        found = self.decisions.get(key)
        if found is None and (edited := self._edited.get(key)):
            found = replace(edited, row=key, record=None)
        return found or Decision(key, key.partition("#")[0])

    def orphans(self, keys: Iterable[str]) -> list[Decision]:
        """Decisions on rows that are no longer among those with ``keys``, neither as they were nor as they were edited."""
        there = set(keys)
        return [item for item in self.decisions.values() if item.row not in there and item.after not in there]


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """``state`` (or a new one) after ``events``.

    Undo and redo take effect in the order of a stack only; events that make no sense are passed over, but their number is taken.
    """
    state = state or State()
    decisions, done, undone = dict(state.decisions), list(state.done), list(state.undone)
    following = state.next
    for event in events:
        seq = event.get("seq")
        if not isinstance(seq, int):
            continue
        following = max(following, seq + 1)
        match event.get("action"):
            case "undo":
                if done and done[-1].seq == event.get("undoes"):
                    undone.append(done.pop())
                    for before, after in reversed(undone[-1].changes):
                        if before is None:
                            del decisions[after.row]
                        else:
                            decisions[after.row] = before
            case "redo":
                if undone and undone[-1].seq == event.get("redoes"):
                    done.append(undone.pop())
                    decisions |= {after.row: after for _, after in done[-1].changes}
            case _:
                if step := _step(event, decisions):
                    done.append(step)
                    undone.clear()
                    decisions |= {after.row: after for _, after in step.changes}
    return State(decisions, tuple(done), tuple(undone), following)


def _step(event: Event, decisions: Mapping[str, Decision]) -> Step | None:
    """The decision that ``event`` is, or ``None`` when it is none that can be understood."""
    changes = {}
    try:
        for change in event["rows"]:
            before = decisions.get(change["row"])
            after = replace(before or Decision(change["row"], change["before"]), after=change["after"])
            if "status" in change:
                after = replace(after, status=STATUSES[STATUSES.index(change["status"])])
            if "tags" in change:
                after = replace(after, tags=tuple(map(str, change["tags"])))
            if "note" in change:
                after = replace(after, note=str(change["note"]))
            if "record" in change:
                after = replace(after, record=None if change["record"] is None else dict(change["record"]))
            changes[after.row] = (before, after)
        return Step(
            event["seq"], event["action"], str(event["who"]), float(event["t"]), str(event["reason"]), tuple(changes.values())
        )
    except (KeyError, TypeError, ValueError):
        return None


def keyed(rows: Iterable[Row]) -> Iterator[Keyed]:
    """The rows of one file, each with its key: whichever of several copies is taken away, the others keep their decisions."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.hash] += 1
        yield (row.hash if seen[row.hash] == 1 else f"{row.hash}#{seen[row.hash]}"), row


def now(row: Row, decision: Decision) -> Row:
    """``row`` as ``decision`` leaves it: edited content, and ``tags`` in its metadata; its place stays the source's.

    Raises ``DataError`` when the journal holds a record that is no row.
    """
    meta = row.meta if decision.tags is None else {**row.meta, "tags": list(decision.tags)}
    if decision.record is None:
        return row if meta is row.meta else replace(row, meta=meta)
    return replace(parse(decision.record, row.place, FORMAT[type(row)]), meta=meta, format=row.format)


@dataclass(frozen=True)
class Reviewed:
    """Rows with their review applied, and where the accepted ones stand. ``edited`` maps the hash of an edited row to the file's."""

    rows: tuple[Row, ...]
    left_out: int
    edited: Mapping[str, str]
    accepted: frozenset[Place]


def apply(rows: Iterable[Row], state: State) -> Reviewed:
    """``rows``, all of a file, without those that were rejected, tied or bad, and with edits and tags in place."""
    kept, left_out, edited, accepted = [], 0, {}, []
    for key, row in keyed(rows):
        decision = state.of(key)
        if decision.status in OUT:
            left_out += 1
            continue
        kept.append(now(row, decision))
        if decision.status == "accepted":
            accepted.append(row.place)
        if decision.record is not None:
            edited[kept[-1].hash] = row.hash
    return Reviewed(tuple(kept), left_out, edited, frozenset(accepted))


def tags(row: Row) -> tuple[str, ...]:
    """The tags in a row's metadata: ``tags``, a list or one word, else ``tag``."""
    found = row.meta.get("tags", row.meta.get("tag"))
    return tuple(map(str, found)) if isinstance(found, list | tuple) else () if found is None else (str(found),)
