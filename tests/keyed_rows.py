"""The rows of a source with their keys in its review."""

from collections import Counter
from collections.abc import Iterable, Iterator

from mlxtune.data.review import key_of_copy
from mlxtune.data.rows import Row


def with_keys(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.hash] += 1
        yield key_of_copy(row.hash, seen[row.hash]), row
