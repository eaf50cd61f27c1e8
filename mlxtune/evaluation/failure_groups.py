"""Group an evaluation's failing rows by their nearest training rows, so that similar rows can be generated.

A teacher sees the training rows of a group, but never a held-out row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.evaluation.drilldown import ScoredRow

EVERY_KIND = "any_failure"
_LINKS = 2  # nearest training rows of a failed row; rows that share one of them are in the same group


@dataclass(frozen=True)
class FailureGroup:
    """Failed rows of similar prompts and the same ``kind`` of failure, and the IDs of their nearest training ``examples``."""

    kind: str
    rows: tuple[ScoredRow, ...]
    examples: tuple[str, ...]


def failure_groups(rows: Sequence[ScoredRow], arm: str) -> list[FailureGroup]:
    """Return the groups of failed ``rows``, largest first: rows that fail in the same way and share a nearest training row.

    If there are several, a last group has all rows. Rows without nearest training rows are left out.
    """
    by_kind: defaultdict[str, list[ScoredRow]] = defaultdict(list)
    for row in rows:
        if row.links is not None and row.links.nearest and arm in row.scores:
            by_kind[row.scores[arm].kind].append(row)
    groups = [_group(kind, members) for kind, same in by_kind.items() for members in _components(same)]
    groups.sort(key=lambda group: -len(group.rows))
    every = [row for same in by_kind.values() for row in same]
    return [*groups, *([_group(EVERY_KIND, every)] if len(groups) > 1 else [])]


def _components(rows: Sequence[ScoredRow]) -> list[list[ScoredRow]]:
    components: list[tuple[set[str], list[ScoredRow]]] = []
    for row in rows:
        near, members = {one.id for one in row.links.nearest[:_LINKS]} if row.links else set(), [row]
        apart = []
        for ids, others in components:
            if near.isdisjoint(ids):
                apart.append((ids, others))
            else:
                near, members = near | ids, [*others, *members]
        components = [*apart, (near, members)]
    return [members for _, members in components]


def _group(kind: str, rows: Sequence[ScoredRow]) -> FailureGroup:
    counts = Counter(one.id for row in rows if row.links for one in row.links.nearest)
    return FailureGroup(kind, tuple(rows), tuple(id for id, _ in counts.most_common()))
