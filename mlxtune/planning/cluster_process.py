"""Clusters of a source's rows, computed by a child process (``models.clusters``) that loads the recipe's base."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.child_process import Progress, StoppableCall
from mlxtune.core.json_fields import from_json
from mlxtune.data.groups import CLUSTER, OUTLIERS, RowGroup, by_size


@dataclass(frozen=True)
class ClusterResult:
    """The clustered record numbers, the cluster of each (-1 for an outlier), and the words that set each cluster apart."""

    rows: tuple[int, ...]
    labels: tuple[int, ...]
    words: tuple[str, ...]

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
        return None if value is None else from_json(ClusterResult, value)
