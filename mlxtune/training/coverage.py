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
        self.state = {name: [0] * len(rows) for name in ("visits", "seen", "trained")}

    def count(self, counts: Mapping[int, tuple[int, int]]) -> None:
        """Add the rows of one step, with their seen and trained token counts summed over all hosts."""
        for index, (seen, trained) in counts.items():
            for name, count in (("visits", 1), ("seen", seen), ("trained", trained)):
                self.state[name][index] += count

    def restore(self, state: Mapping[str, list[int]]) -> None:
        self.state = {name: list(state[name]) for name in self.state}

    def write(self, folder: Path) -> None:
        """Write ``certificate.json`` into ``folder``. Raise ``MlxtuneError`` if the counts contradict the rows."""
        rows: list[dict[str, Any]] = []
        for row, visits, seen, trained in zip(self.rows, *self.state.values(), strict=True):
            if (seen, trained) != (visits * len(row.tokens), visits * int(row.trained.sum())):
                message = f"the row was seen {plural(visits, 'time')}, but {trained} trained tokens were counted"
                raise MlxtuneError(f"{row.location}: {message}.", hint="Do not use the run.")
            counts = {"visits": visits, "seen": seen, "trained": trained, "truncated": row.truncated}
            rows.append({"id": row.id, "line": row.location.line, **row_labels(row), **counts})
        record: dict[str, Any] = {"v": 1, "totals": _totals(rows), "rows": rows}
        if replayed := [row for row in rows if row.get("replay")]:
            record["replay"] = {"rows": len(replayed), **_totals(replayed)}
        write_json(folder / FILE, record)


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ("visits", "seen", "trained", "truncated")}


def row_labels(row: TrainingRow) -> dict[str, Any]:
    """Return entries for a row's record: that it is replayed, or its turn if other turns of its conversation are rows, too."""
    if not isinstance(row, Encoded):
        return {}
    return {**({"turn": row.turn} if row.turn else {}), **({"replay": True} if row.replay else {})}


def rows_fingerprint(rows: Sequence[TrainingRow]) -> str:
    """Return a hash of the rows' tokens, in order. A checkpoint can be resumed only with the same rows."""
    return sha256_json([[row.id, row.tokens.tobytes().hex(), row.trained.tobytes().hex()] for row in rows])
