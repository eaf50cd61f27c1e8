"""Coverage report: how often each row was trained on, counted from the batches the run actually used, not from its plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import plural
from mlxtune.models.encoded import Encoded
from mlxtune.training.objective import TrainingRow

FILE = "certificate.json"


class Coverage:
    """Visits, seen tokens and trained tokens per row. They are saved with checkpoints, so a resumed run keeps counting."""

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self.rows = rows
        self.visits = [0] * len(rows)
        self.seen = [0] * len(rows)
        self.trained = [0] * len(rows)

    def count(self, counts: Mapping[int, tuple[int, int]]) -> None:
        """Add the rows of one step, with their seen and trained token counts summed over all hosts."""
        for index, (seen, trained) in counts.items():
            self.visits[index] += 1
            self.seen[index] += seen
            self.trained[index] += trained

    @property
    def state(self) -> dict[str, list[int]]:
        """Return the counts, for a checkpoint."""
        return {"visits": self.visits, "seen": self.seen, "trained": self.trained}

    def restore(self, state: Mapping[str, list[int]]) -> None:
        """Load the counts of a checkpoint."""
        self.visits, self.seen, self.trained = (list(state[name]) for name in ("visits", "seen", "trained"))

    def write(self, folder: Path) -> None:
        """Write ``certificate.json`` into ``folder``. Raise ``MlxtuneError`` if the counts contradict the rows."""
        rows: list[dict[str, Any]] = []
        for row, visits, seen, trained in zip(self.rows, self.visits, self.seen, self.trained, strict=True):
            if (seen, trained) != (visits * len(row.tokens), visits * int(row.trained.sum())):
                raise MlxtuneError(
                    f"{row.location}: the row was seen {plural(visits, 'time')}, but {trained} trained tokens were counted, which does not match.",
                    hint="The run's records are inconsistent; do not use it.",
                )
            counts = {"visits": visits, "seen": seen, "trained": trained, "truncated": row.truncated}
            rows.append({"id": row.id, "line": row.location.line, **row_labels(row), **counts})
        record: dict[str, Any] = {"v": 1, "totals": _totals(rows), "rows": rows}
        if replayed := [row for row in rows if row.get("replay")]:
            record["replay"] = {"rows": len(replayed), **_totals(replayed)}
        write_json(folder / FILE, record)


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ("visits", "seen", "trained", "truncated")}


def row_labels(row: TrainingRow) -> dict[str, Any]:
    """Return entries for a row's record: that it is replayed, or its turn if the other turns of its conversation are separate
    rows."""
    if not isinstance(row, Encoded):
        return {}
    return {**({"turn": row.turn} if row.turn else {}), **({"replay": True} if row.replay else {})}


def rows_fingerprint(rows: Sequence[TrainingRow]) -> str:
    """Return a hash of the rows' tokens, in order. A checkpoint can be resumed only with the same rows."""
    return sha256_json([[row.id, row.tokens.tobytes().hex(), row.trained.tobytes().hex()] for row in rows])
