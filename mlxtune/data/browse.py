"""The rows of a source by number, seen and decided upon: a million of them, of which only those that are asked for are read.

Which row a decision is about depends on the rows before it, since the review tells copies apart by their order. So :meth:`Browse.learn`
walks over all of them once; what it has not come to yet can be looked at, but not decided upon.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlxtune.core.errors import DataError
from mlxtune.data.checks.checked import Checked
from mlxtune.data.checks.contract import Scorer
from mlxtune.data.checks.finding import CHECKS, SEVERITIES, Finding
from mlxtune.data.checks.run import of_rows, recheck, verdict
from mlxtune.data.decisions import OUT, Decision, Keyed, State, Step, now, tags
from mlxtune.data.filters import Filter, said
from mlxtune.data.formats import EMPTY
from mlxtune.data.hashes import Hashes
from mlxtune.data.records import Records
from mlxtune.data.rows import Place, Row, RowError
from mlxtune.data.scan import Numbers

ORDERS = ("row", "findings", "longest", "shortest")  # how rows can be sorted
_TURN, _PAUSE = 0.002, 0.0005  # seconds that a walk over rows takes, and then leaves to other threads
_FEW = 200  # changes in a decision up to which each is looked up by itself
_TAGS = 1000  # different tags beyond which they are none

Stop = Callable[[], bool]


class Browse:
    """``known`` is how many rows :meth:`learn` has come to. ``scorer`` judges edited answers. To be closed.

    Raises ``DataError`` when a file of the source cannot be read as a whole.
    """

    def __init__(self, path: Path, format: str = "auto", mapping: Mapping[str, str] = EMPTY) -> None:
        self.path = path
        self.records = Records(path, format, mapping)
        self.known = 0
        self.bad = 0
        self.checked: Checked | None = None
        self.scorer: Scorer | None = None
        self.state = State()
        self._hashes = Hashes(len(self.records))
        self._lengths = np.zeros(len(self.records), np.int32)
        self._there = bytearray(len(self.records))  # 1 where there is a row
        self._of_rows = of_rows()
        self._tags: Counter[str] = Counter()
        self._decided: dict[int, Decision] = {}
        self._standing: tuple[object, Standing] | None = None
        self._rechecked: dict[str, tuple[Finding, ...]] = {}

    def __len__(self) -> int:
        return len(self.records)

    # Rows

    def record(self, at: int) -> Row | DataError:
        """Record ``at`` as the source has it, or why it is no row."""
        return self.records.record(at)

    def place(self, at: int) -> Place:
        return self.records.place(at)

    def seen(self, at: int) -> Seen:
        """Record ``at`` as a filter sees it; it is read only if the filter looks at what it says."""
        return Seen(self, at)

    def usable(self, at: int) -> bool:
        """Whether record ``at`` is known to be a row."""
        return bool(self._there[at])

    def may_decide(self, at: int) -> bool:
        """Whether record ``at`` is a row, or may be one: :meth:`learn` has not come to it."""
        return at >= self.known or bool(self._there[at])

    def decision(self, at: int) -> Decision:
        """What holds for row ``at``. Before :attr:`known` has come to it, nothing."""
        return self._decided.get(at) or _NOTHING

    def keyed(self, at: int) -> Keyed:
        """Row ``at`` with its key. Raises ``DataError`` when it is no row, or not known yet."""
        row = self.records.row(at)
        if at >= self.known:
            raise DataError(
                f"Row {at + 1:,} was not read yet: {self.known:,} of {len(self):,} are.", mend="Decide on it when it was."
            )
        return self._key(at), row

    def learn(self, stop: Stop = lambda: False) -> Iterator[int]:
        """Read on to the end, and give after each moment's work how many rows are known; ``stop`` ends it.

        Raises ``DataError`` when the file was written to meanwhile.
        """
        pace = _Pace()
        for at in range(self.known, len(self)):
            record = self.records.record(at)
            if isinstance(record, DataError):
                if not isinstance(record, RowError):
                    raise record
                self.bad += 1
                self.known = at + 1
            else:
                self._hashes.put(at, record.hash)
                self._lengths[at] = len(said(record))
                self._there[at] = 1
                if len(self._tags) < _TAGS:
                    self._tags.update(tags(record))
                self.known = at + 1  # before the state is looked at: one that comes later sees this row
                if record.hash in self.state.touched:
                    self._decide(at)
            if pace.rested():
                if stop():
                    return
                yield self.known
        self._hashes.sort(self.known)
        self.records.release()
        yield self.known

    # What was decided

    def hold(self, state: State, step: Step | None = None) -> None:
        """Take ``state`` as what holds now; ``step`` is all that has changed, where that is known."""
        self.state = state
        if step is None or len(step.changes) > _FEW:
            self._decided = {}
            candidates = self._hashes.among(state.touched, self.known)
        else:
            hashes = {hash for before, after in step.changes for one in (before, after) if one for hash in (one.row, one.after)}
            parts = [self._hashes.rows(hash.partition("#")[0], self.known) for hash in hashes]
            candidates = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        for at in candidates.tolist():
            self._decide(at)

    @property
    def decided(self) -> Mapping[int, Decision]:
        """What holds now for every row, as far as it is known, for which anything does: threads find more meanwhile."""
        return dict(self._decided)

    @property
    def settled(self) -> int:
        """How many rows wait for no decision any more, as far as they are known."""
        return sum(held.status not in ("pending", "skipped") for held in self.decided.values())

    @property
    def tags(self) -> Counter[str]:
        """How often the rows have each tag in the source, as far as they are known."""
        return Counter(self._tags)

    def decided_by(self, at: int) -> Step | None:
        """The newest decision on row ``at`` that still holds."""
        held = self._decided.get(at)
        if held is None:
            return None
        return next((step for step in reversed(self.state.done) if any(after.row == held.row for _, after in step.changes)), None)

    def rows_of(self, keys: Iterable[str]) -> list[int]:
        """The rows that have one of the review's ``keys``, as far as they are known."""
        wanted = set(keys)
        found = {int(at) for key in wanted for at in self._hashes.rows(key.partition("#")[0], self.known)}
        return sorted(at for at in found if self._key(at) in wanted)

    def starting(self, digits: str) -> list[int]:
        """The known rows whose content's hash begins with ``digits``, at most 16 of which count."""
        return self._hashes.starting(digits, self.known)

    def _decide(self, at: int) -> None:
        held = self.state.of(self._key(at))
        if held.status == "pending" and held.tags is None and not held.note and held.record is None:
            self._decided.pop(at, None)
        else:
            self._decided[at] = held

    def _key(self, at: int) -> str:
        hash = self._hashes.of(at)
        _, file = self.records.part(at)
        number = 1 + int((self._hashes.rows(hash, at) >= file.start).sum())
        return hash if number == 1 else f"{hash}#{number}"

    # What was found

    def findings(self, at: int) -> tuple[Finding, ...]:
        """What checks find about row ``at``: of one that was edited, what they find in it now, and what it was among the others."""
        if self.checked is None:
            return ()
        found = self.checked.by_row.get(at, ())
        held = self._decided.get(at)
        if held is None or held.record is None:
            return found
        if held.after not in self._rechecked:
            row = self.seen(at).now_or_error
            self._rechecked[held.after] = () if isinstance(row, DataError) else recheck(at, row, self.scorer)
        return (*self._rechecked[held.after], *(one for one in found if one.check not in self._of_rows))

    @property
    def standing(self) -> Standing | None:
        """Where the source stands now that these decisions hold; ``None`` before it was checked."""
        if self.checked is None:
            return None
        if self._standing is None or self._standing[0] != (id(self.checked), self.state.next, len(self._decided)):
            self._standing = ((id(self.checked), self.state.next, len(self._decided)), self._stand(self.checked))
        return self._standing[1]

    def _stand(self, checked: Checked) -> Standing:
        decided = self.decided
        left_out = {at for at, held in decided.items() if held.status in OUT}
        edited = {at for at, held in decided.items() if held.record is not None} - left_out
        found = [one for one in checked.findings if not one.rows or one.rows[0] not in decided]
        found += [one for at in sorted(decided.keys() - left_out) for one in self.findings(at)]
        order = {name: number for number, name in enumerate(CHECKS)}
        found.sort(key=lambda one: (SEVERITIES.index(one.severity), order[one.check], one.rows))
        rows: dict[str, list[int]] = {}
        for one in found:
            if one.rows and one.severity != "note":
                rows.setdefault(one.check, []).append(one.rows[0])
        word, sentence = verdict(found, len(self) - len(left_out))
        return Standing(word, sentence, tuple(found), rows, len(left_out), len(edited))

    def tokens(self, at: int) -> int:
        """The length of row ``at`` in tokens; -1 where that is not known, as for one that was edited since."""
        if self.checked is None or at >= len(self.checked.tokens):
            return -1
        held = self._decided.get(at)
        return -1 if held is not None and held.record is not None else int(self.checked.tokens[at])

    def length(self, at: int) -> int:
        """The length of row ``at`` in characters, as the source has it; 0 where it is not known."""
        return int(self._lengths[at])

    @property
    def lengths(self) -> Numbers:
        """How long rows are, ``(rows,)``: in tokens where they were counted, else in characters, as far as they are known."""
        if self.checked is not None and len(self.checked.tokens):
            return self.checked.tokens[self.checked.tokens >= 0]
        known = self.known  # which goes on meanwhile
        return self._lengths[:known][np.frombuffer(self._there, np.uint8)[:known] > 0].astype(np.int64)

    # Which rows

    def matching(self, holds: Filter, stop: Stop = lambda: False) -> Iterator[tuple[int, list[int]]]:
        """The numbers of the rows for which ``holds`` is true, a moment's work at a time, with how many were looked at.

        It follows :meth:`learn`, and waits for it. Records that are no rows are left out.
        """
        pace, at = _Pace(), 0
        found: list[int] = []
        while at < len(self) and not stop():
            if at >= self.known:
                yield at, found
                found = []
                time.sleep(0.02)
                continue
            if self._there[at]:
                try:
                    if holds(self.seen(at)):
                        found.append(at)
                except DataError:  # the file was written to, or the journal holds what is no row
                    pass
            at += 1
            if pace.rested():
                yield at, found
                found = []
        yield at, found

    def sorted(self, rows: Sequence[int], order: str) -> Sequence[int]:
        """``rows`` in the order that :data:`ORDERS` calls ``order``; where two are equal, the first in the source stays first."""
        if order == "row" or not len(rows):
            return rows
        numbers = np.asarray(rows, np.int64)
        by: Numbers = np.zeros(len(self), np.int64)
        if order == "findings":
            by += len(SEVERITIES)
            for at, found in self.checked.by_row.items() if self.checked else ():
                by[at] = SEVERITIES.index(found[0].severity)
        else:
            by += self.checked.tokens if self.checked and len(self.checked.tokens) == len(self) else self._lengths
            by *= -1 if order == "longest" else 1
        found_order: list[int] = numbers[np.argsort(by[numbers], kind="stable")].tolist()
        return found_order

    def close(self) -> None:
        """Let the files go."""
        self.records.close()


@dataclass(frozen=True)
class Standing:
    """What checks say of a source as a review leaves it: a word, a sentence, and what they find.

    ``rows`` has for each check, the gravest first, the rows that it finds something about.
    """

    word: str
    sentence: str
    findings: tuple[Finding, ...]
    rows: Mapping[str, Sequence[int]]
    left_out: int
    edited: int

    @property
    def flagged(self) -> int:
        """How many rows any check finds something about."""
        return len({at for rows in self.rows.values() for at in rows})


class Seen:
    """Row ``at`` of ``browse``, read when it is looked at. Raises ``DataError`` then where it is no row."""

    def __init__(self, browse: Browse, at: int) -> None:
        self._browse, self.at = browse, at

    @cached_property
    def row(self) -> Row:
        return self._browse.records.row(self.at)

    @cached_property
    def now(self) -> Row:
        return now(self.row, self.decision)

    @property
    def now_or_error(self) -> Row | DataError:
        """What the row says now, or why it says nothing."""
        try:
            return self.now
        except DataError as error:
            return error

    @property
    def decision(self) -> Decision:
        return self._browse.decision(self.at)

    @property
    def findings(self) -> Collection[str]:
        return {one.check for one in self._browse.findings(self.at)}

    @property
    def tokens(self) -> int:
        return self._browse.tokens(self.at)


class _Pace:
    """Leaves the processor to others every now and then: the thread that paints must never wait long for this one."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _TURN

    def rested(self) -> bool:
        """Whether it was time for a rest; then it was taken."""
        if time.perf_counter() < self._until:
            return False
        time.sleep(_PAUSE)
        self._until = time.perf_counter() + _TURN
        return True


_NOTHING = Decision("", "")
