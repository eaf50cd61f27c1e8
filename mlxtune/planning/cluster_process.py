"""Clusters of a source's rows, computed by a child process (``models.cluster_worker``) that loads the recipe's base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import ChildProcess
from mlxtune.core.errors import MachineError
from mlxtune.data.groups import CLUSTER, OUTLIERS, RowGroup, by_size

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ClusterResult:
    """The clustered record numbers, the cluster of each (-1 for an outlier), and the words that set each cluster apart."""

    rows: tuple[int, ...]
    labels: tuple[int, ...]
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClusterResult:
        return cls(tuple(value["rows"]), tuple(value["labels"]), tuple(value["words"]))

    @property
    def groups(self) -> list[RowGroup]:
        """The outliers and the clusters, by size."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for row, label in zip(self.rows, self.labels, strict=True):
            members[label].append(row)
        outliers = RowGroup(OUTLIERS, tuple(members.pop(-1, ())))
        return by_size([outliers, *(RowGroup(CLUSTER, tuple(rows), self.words[label]) for label, rows in members.items())])


class ClusterProcess:
    """A clustering that runs in a child process. One thread waits for it; any thread can stop it."""

    def __init__(self, recipe: Path) -> None:
        self._stopped = False
        self._child = ChildProcess("mlxtune.models.cluster_worker", name="The clustering process", hint="Try again.")
        self._call = self._child.request("clusters", {"recipe": str(recipe)})

    def follow(self, progress: Progress) -> ClusterResult | None:
        """Return the result, or ``None`` if the process was stopped. Raises its errors, and ``MachineError`` if it died."""
        try:
            result = ClusterResult.from_json(self._call.result(lambda update: progress(*update)))
        except MachineError:
            if self._stopped:
                return None
            raise
        self._child.close()
        return result

    def stop(self) -> None:
        """Stop the process."""
        self._stopped = True
        self._child.terminate()
