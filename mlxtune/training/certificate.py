"""The certificate of a run: what each row gave, counted from the arrays that were trained on and not from what was planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.training.objective import Row

FILE = "certificate.json"


class Certificate:
    """Counts per row: visits, tokens seen and tokens trained. Belongs to the checkpoint, so that a resumed run goes on counting."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.visits = [0] * len(rows)
        self.seen = [0] * len(rows)
        self.trained = [0] * len(rows)

    def count(self, counts: Mapping[int, tuple[int, int]]) -> None:
        """Take the rows of a step that has trained, each with its tokens seen and trained on all hosts together."""
        for at, (seen, trained) in counts.items():
            self.visits[at] += 1
            self.seen[at] += seen
            self.trained[at] += trained

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"visits": self.visits, "seen": self.seen, "trained": self.trained}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's counts."""
        self.visits, self.seen, self.trained = (list(state[name]) for name in ("visits", "seen", "trained"))

    def write(self, folder: Path) -> None:
        """Leave ``certificate.json`` in ``folder``. Raises ``MlxtuneError`` if the counts and the rows contradict each other."""
        rows: list[dict[str, Any]] = []
        for row, visits, seen, trained in zip(self.rows, self.visits, self.seen, self.trained, strict=True):
            if (seen, trained) != (visits * len(row.tokens), visits * int(row.trained.sum())):
                raise MlxtuneError(
                    f"{row.place}: {visits} visits trained {trained} tokens, which cannot be. Do not trust this run."
                )
            rows.append(
                {
                    "id": row.id,
                    "line": row.place.line,
                    "visits": visits,
                    "seen": seen,
                    "trained": trained,
                    "truncated": row.truncated,
                }
            )
        totals = {name: sum(row[name] for row in rows) for name in ("visits", "seen", "trained", "truncated")}
        write_json(folder / FILE, {"v": 1, "totals": totals, "rows": rows})


def fingerprint(rows: Sequence[Row]) -> str:
    """Identifies what trains, token for token and in order: a checkpoint belongs to these rows and no others."""
    return sha256_json([[row.id, row.tokens.tobytes().hex(), row.trained.tobytes().hex()] for row in rows])
