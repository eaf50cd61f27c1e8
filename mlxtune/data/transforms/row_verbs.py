"""Verbs that choose rows: ``where``, ``keep``, ``drop``, ``sample``, ``cap`` and ``merge``."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from mlxtune.core.files import user_path
from mlxtune.core.text import one_line
from mlxtune.data import filters
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.checks.corpus import json_fields
from mlxtune.data.rows import Row, row_tags
from mlxtune.data.source import read_source
from mlxtune.data.transforms.transform import Addition, ArgumentScanner, PipelineRow, Rewrite, Selection, Verb, no_change

_DEFAULT_SEED = 0


def row_value(row: Row, key: str) -> str | None:
    """Return the row's value for ``key``: its first tag, metadata, or a field of a JSON answer; ``None`` if it has none."""
    value: Any = None
    if key in ("tag", "tags"):
        value = next(iter(row_tags(row)), None)
    elif key in row.meta:
        value = row.meta[key]
    else:
        value = json_fields(target_text(row)).get(key.removeprefix("answer."))
    return None if value is None else str(value)


def _parse_where(scanner: ArgumentScanner) -> Rewrite:
    text = scanner.filter()
    scanner.where = filters.parse(text) if text else None
    return Rewrite(no_change)


def _parse_filter(keep: bool) -> Callable[[ArgumentScanner], Rewrite]:
    def parse(scanner: ArgumentScanner) -> Rewrite:
        text = scanner.filter()
        if not text:
            raise scanner.error(f"{scanner.name} needs a filter.")
        matches = filters.parse(text)
        return Rewrite(lambda row: [row.current] if matches(row) == keep else [], scanner.where)

    return parse


def _parse_sample(scanner: ArgumentScanner) -> Selection:
    limit = _limit(scanner)
    key = scanner.word("a key") if scanner.keyword("per") else ""
    return _at_most(scanner, limit, (lambda row: row_value(row, key) or "") if key else lambda row: "")


def _parse_cap(scanner: ArgumentScanner) -> Selection:
    key = scanner.word("a key")
    return _at_most(scanner, _limit(scanner), lambda row: row_value(row, key))


def _limit(scanner: ArgumentScanner) -> int:
    limit = scanner.number("a number of rows")
    if limit < 1:
        raise scanner.error(f"{scanner.name}: the number of rows must be at least 1.")
    return limit


def _at_most(scanner: ArgumentScanner, limit: int, value_of: Callable[[Row], str | None]) -> Selection:
    """Return a step that keeps ``limit`` random rows per value, and all without a value (``None``).

    The order is a hash of the row and the seed, so that each row's draw is independent of the others, and repeating the step
    changes nothing.
    """
    seed = scanner.number("a seed") if scanner.keyword("seed") else _DEFAULT_SEED

    def choose(rows: Iterator[tuple[int, PipelineRow]]) -> frozenset[int]:
        kept: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # per value: a heap with the next row to drop first
        dropped = []
        for number, row in rows:
            if (value := value_of(row.current)) is None:
                continue
            digest = hashlib.blake2b(f"{seed} {row.current.hash}".encode(), digest_size=8).digest()
            luck = (-int.from_bytes(digest), -number)
            if len(kept[value]) < limit:
                heapq.heappush(kept[value], luck)
            else:
                dropped.append(-heapq.heappushpop(kept[value], luck)[1])
        return frozenset(dropped)

    return Selection(choose, scanner.where)


def _parse_merge(scanner: ArgumentScanner) -> Addition:
    name = scanner.word("a file")
    path = scanner.folder / user_path(name)
    if not path.exists():
        raise scanner.error(f"merge: {one_line(name, 60)} does not exist.")
    return Addition(lambda: read_source(path).rows)


WHERE = Verb("where [FILTER]", "change only matching rows from here on; without a filter, all rows again", _parse_where)
KEEP = Verb("keep FILTER", "leave out the rows that do not match", _parse_filter(keep=True))
DROP = Verb("drop FILTER", "leave out the rows that match", _parse_filter(keep=False))
SAMPLE = Verb("sample N [per KEY] [seed N]", "keep N random rows, or N for each value of a key", _parse_sample)
CAP = Verb("cap KEY N [seed N]", "keep at most N rows for each value of a key, and all rows without it", _parse_cap)
MERGE = Verb("merge FILE", "add the rows of another file; needs a new file", _parse_merge)
