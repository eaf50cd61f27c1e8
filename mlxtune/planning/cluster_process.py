"""Clusters of a source's rows, computed by a child process (``models.clusters``) that loads the recipe's base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import Progress, StoppableCall
from mlxtune.data.groups import CLUSTER, OUTLIERS, RowGroup, by_size


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


class ClusterProcess(StoppableCall):
    """A clustering that runs in a child process."""

    def __init__(self, recipe: Path) -> None:
        module = "mlxtune.models.clusters"
        super().__init__(module, "clusters", {"recipe": str(recipe)}, name="The clustering process", hint="Try again.")

    def follow(self, progress: Progress) -> ClusterResult | None:
        """Return the clusters, or ``None`` if the process was stopped. Raises as :meth:`result` does."""
        value = self.result(progress)
        return None if value is None else ClusterResult.from_json(value)
