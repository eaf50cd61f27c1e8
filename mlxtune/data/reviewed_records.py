"""Read a source's records in one pass, with the review applied: records are edited, and rejected ones are marked as left out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mlxtune.core.errors import DataError
from mlxtune.data.access.records import SourceRecords
from mlxtune.data.review import EXCLUDED, NO_DECISION, Decision, ReviewState, apply_decision, is_left_out, key_of_copy
from mlxtune.data.rows import Row, RowError


@dataclass(frozen=True)
class ReviewedRecord:
    """A record by number, with its part of the source. ``decision`` is ``NO_DECISION`` if nothing was decided about it."""

    index: int
    part: str
    record: Row | DataError
    decision: Decision

    @property
    def is_left_out(self) -> bool:
        """Whether the record is rejected, or a proposal that was not accepted."""
        if isinstance(self.record, DataError):
            return self.decision.status in EXCLUDED
        return is_left_out(self.record, self.decision)

    @property
    def is_edited(self) -> bool:
        return self.decision.record is not None


class ReviewedRecords:
    """The records of a source after its review. Iterate over them before :meth:`row`, which needs the ``decisions`` found then."""

    def __init__(self, records: SourceRecords, state: ReviewState) -> None:
        self.records = records
        self._state = state
        self.decisions: dict[int, Decision] = {}

    def __iter__(self) -> Iterator[ReviewedRecord]:
        affected = {key.partition("#")[0] for key in self._state.affected_keys}
        copies: Counter[str] = Counter()
        for index, (part, record) in enumerate((part, record) for part, file in self.records.files for record in file):
            decision = NO_DECISION
            if affected and isinstance(record, Row | RowError) and (hash := record.hash) in affected:
                copies[hash] += 1
                decision = self._state.decision(key_of_copy(hash, copies[hash]))
            if decision.is_empty:
                yield ReviewedRecord(index, part, record, NO_DECISION)
            else:
                self.decisions[index] = decision
                yield ReviewedRecord(index, part, _apply(record, decision), decision)

    def row(self, index: int) -> Row:
        """Read a record that the iteration has already reached as a row. Raises ``RowError`` if it is invalid."""
        return apply_decision(self.records.record(index), self.decisions.get(index, NO_DECISION))


def _apply(record: Row | DataError, decision: Decision) -> Row | DataError:
    try:
        return apply_decision(record, decision)
    except DataError as error:
        return error
