"""Groups of rows that belong together: duplicates, near-duplicates, conflicting rows, and clusters of similar texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlxtune.core.child_process import StoppableCall
from mlxtune.core.json_fields import from_json
from mlxtune.core.sequences import grouped
from mlxtune.data.checks.base import Finding
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.duplicates import components, normalize_text, shingles, similarity
from mlxtune.data.rows import Row, prompt_text

FINDING_KINDS = ("duplicate", "near-duplicate", "conflict")  # checks whose findings are about several rows
CLUSTER, OUTLIERS, PROPOSED = "cluster", "outliers", "proposed"
_MAX_TEXT = 4000  # characters of a row that are compared with the other members


@dataclass(frozen=True)
class RowGroup:
    """Rows, by record number in ascending order, and why they belong together: a check, ``cluster``, ``outliers``, or ``proposed``.

    ``label`` has the words that set a cluster apart. Of proposed rows, the least typical one is first.
    """

    kind: str
    rows: tuple[int, ...]
    label: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """The key that identifies the group even after rows are left out of it: its kind and first row."""
        return self.kind, self.rows[0]

    def without(self, rows: Collection[int]) -> RowGroup:
        """Return the group without some of its rows."""
        return RowGroup(self.kind, tuple(row for row in self.rows if row not in rows), self.label)


def finding_groups(findings: Iterable[Finding]) -> list[RowGroup]:
    """Return the rows that findings of one kind connect, largest group first."""
    about_several = (finding for finding in findings if finding.check in FINDING_KINDS)
    links = grouped((one.check, (one.rows[0], other)) for one in about_several for other in one.rows[1:])
    groups: list[RowGroup] = []
    for kind, pairs in links.items():
        rows = sorted({row for pair in pairs for row in pair})
        number = {row: index for index, row in enumerate(rows)}
        labels = components(len(rows), [(number[a], number[b], 1.0) for a, b in pairs])
        groups += [RowGroup(kind, tuple(own)) for own in grouped(zip(labels, rows, strict=True)).values()]
    return by_size(groups)


def by_size(groups: Iterable[RowGroup]) -> list[RowGroup]:
    """Return groups of two or more rows, largest first; outliers always come first."""
    kept = [group for group in groups if len(group.rows) > 1 or (group.kind == OUTLIERS and group.rows)]
    return sorted(kept, key=lambda group: (group.kind != OUTLIERS, -len(group.rows), group.kind, group.rows))


@dataclass(frozen=True)
class ClusterResult:
    """The clustered record numbers, the cluster of each (-1 for an outlier), and the words that set each cluster apart."""

    rows: tuple[int, ...]
    labels: tuple[int, ...]
    words: tuple[str, ...]

    @property
    def groups(self) -> list[RowGroup]:
        """The outliers and the clusters, by size."""
        members = grouped(zip(self.labels, self.rows, strict=True))
        outliers = RowGroup(OUTLIERS, tuple(members.pop(-1, ())))
        return by_size([outliers, *(RowGroup(CLUSTER, tuple(rows), self.words[label]) for label, rows in members.items())])


def start_clustering(recipe: Path) -> StoppableCall[ClusterResult]:
    """Start a child process that loads the base of ``recipe`` and clusters its rows."""
    params, read = {"recipe": str(recipe)}, partial(from_json, ClusterResult)
    return StoppableCall("mlxtune.models.clusters", "clusters", params, read, name="The clustering process")


def proposal_groups(rows: Mapping[int, Row]) -> list[RowGroup]:
    """Return proposed rows, by record number, as groups of rows with similar words, largest group first."""
    from mlxtune.data.text_clusters import word_groups  # loads numpy

    indices = list(rows)
    groups = word_groups([f"{prompt_text(row)}\n{target_text(row)}" for row in rows.values()])
    found = [RowGroup(PROPOSED, tuple(indices[position] for position in own), name) for name, own in groups]
    return sorted(found, key=lambda group: -len(group.rows))


def most_diverse(texts: Sequence[str], count: int) -> list[int]:
    """Return the positions of ``count`` texts that differ most from each other, in ascending order. The first text is kept, and
    then repeatedly the text with the largest distance (of 5-gram shingles, Jaccard) to those already kept
    (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").
    """
    sets = [shingles(normalize_text(text[:_MAX_TEXT])) for text in texts]
    chosen = [0] if texts else []
    distances = [1.0] * len(texts)
    while len(chosen) < min(count, len(texts)):
        newest = sets[chosen[-1]]
        distances = [min(known, 1 - similarity(newest, own)) for known, own in zip(distances, sets, strict=True)]
        distances[chosen[-1]] = -1.0
        chosen.append(max(range(len(texts)), key=lambda position: distances[position]))
    return sorted(chosen)
