"""Verbs that choose rows (``where``, ``keep``, ``drop``, ``sample``, ``cap``, ``dedupe``, ``merge``) or change their metadata (``tag`` …)."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line, suggest
from mlxtune.data import filters
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.checks.contract import PREFIX
from mlxtune.data.checks.corpus import ANSWER, is_label, json_fields
from mlxtune.data.rows import REVIEW_STATUS, Row, prompt_hash, row_tags
from mlxtune.data.source import read_source
from mlxtune.data.transforms.transform import Addition, ArgumentScanner, PipelineRow, Rewrite, Selection, Verb, unknown_key

_DEFAULT_SEED = 0
Metadata = dict[str, Any]


def row_value(row: Row, key: str) -> str | None:
    """Return the row's value for ``key``: its first tag, metadata, a field of a JSON answer, or, as ``answer``, a label; ``None`` if it
    has none."""
    value: Any = None
    if key in ("tag", "tags"):
        value = next(iter(row_tags(row)), None)
    elif key in row.meta:
        value = row.meta[key]
    elif key == ANSWER and is_label(target_text(row)):
        value = target_text(row)
    else:
        value = json_fields(target_text(row)).get(key.removeprefix("answer."))
    return None if value is None else str(value)


def _parse_where(scanner: ArgumentScanner) -> Rewrite:
    text = scanner.filter()
    scanner.where = filters.parse(text) if text else None
    return Rewrite(lambda row: [row.current])


def _parse_filter(keep: bool) -> Callable[[ArgumentScanner], Rewrite]:
    def parse(scanner: ArgumentScanner) -> Rewrite:
        text = scanner.filter()
        if not text:
            raise scanner.error(f"{scanner.verb.name} needs a filter.")
        matches = filters.parse(text)
        return Rewrite(lambda row: [row.current] if matches(row) == keep else [], scanner.where)

    return parse


def _parse_sample(scanner: ArgumentScanner) -> Selection:
    limit = scanner.number("a number of rows", 1)
    key = scanner.word("a key") if scanner.keyword("per") else ""
    return _at_most(scanner, limit, (lambda row: row_value(row, key) or "") if key else lambda row: "", key)


def _parse_cap(scanner: ArgumentScanner) -> Selection:
    key = scanner.word("a key")
    return _at_most(scanner, scanner.number("a number of rows", 1), lambda row: row_value(row, key), key)


def _at_most(scanner: ArgumentScanner, limit: int, value_of: Callable[[Row], str | None], key: str) -> Selection:
    """Return a step that keeps ``limit`` random rows per value of ``key``, and all without a value (``None``).

    The order is a hash of the row and the seed, so that each row's draw is independent of the others, and repeating the step
    changes nothing.
    """
    seed = scanner.number("a seed") if scanner.keyword("seed") else _DEFAULT_SEED

    def choose(rows: Iterator[tuple[int, PipelineRow]]) -> frozenset[int]:
        kept: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)  # per value: a heap with the next row to drop first
        dropped = []
        keys: set[str] | None = None
        for number, row in rows:
            keys = (keys or set()) | row.current.meta.keys() if key else None
            if (value := value_of(row.current)) is None:
                continue
            digest = hashlib.blake2b(f"{seed} {row.current.hash}".encode(), digest_size=8).digest()
            luck = (-int.from_bytes(digest), -number)
            if len(kept[value]) < limit:
                heapq.heappush(kept[value], luck)
            else:
                dropped.append(-heapq.heappushpop(kept[value], luck)[1])
        if keys is not None and not kept.keys() - {""}:
            raise unknown_key(key, keys)
        return frozenset(dropped)

    return Selection(choose, scanner.where)


# The best of several rows with the same prompt: a larger value is better
_RULES: dict[str, Callable[[PipelineRow], float]] = {
    "accepted": lambda row: row.decision.status == "accepted" or row.current.meta.get(REVIEW_STATUS) == "accepted",
    "contract": lambda row: -sum(check.startswith(PREFIX) for check in row.findings),
    "length": lambda row: len(target_text(row.current)),
    "newest": lambda row: 0,  # the last one of equal rows is kept
}


def _parse_dedupe(scanner: ArgumentScanner) -> Selection:
    rules = []
    while not scanner.at_end:
        name = scanner.word("a rule")
        if name not in _RULES:
            raise scanner.error(f"dedupe: unknown rule {one_line(name, 30)}. {suggest(name, _RULES)}")
        rules.append(_RULES[name])
        scanner.fields |= {"finding"} if name == "contract" else set()

    def choose(rows: Iterator[tuple[int, PipelineRow]]) -> frozenset[int]:
        best: dict[str, tuple[tuple[float, ...], int]] = {}
        dropped = []
        for number, row in rows:
            prompt, rank = prompt_hash(row.current), (tuple(rule(row) for rule in rules), number)
            if prompt in best:
                dropped.append(min(best[prompt], rank)[1])
            best[prompt] = max(best.get(prompt, rank), rank)
        return frozenset(dropped)

    return Selection(choose, scanner.where)


def _parse_merge(scanner: ArgumentScanner) -> Addition:
    name = scanner.word("a file")
    path = scanner.folder / user_path(name)
    if not path.exists():
        raise scanner.error(f"merge: {one_line(name, 60)} does not exist.")
    return Addition(lambda: read_source(path).rows)


# Metadata


def _step(scanner: ArgumentScanner, change: Callable[[Metadata], Metadata], *keys: str) -> Rewrite:
    def rewrite(row: Row) -> Row:
        meta = change(row.meta)
        return row if meta == row.meta else replace(row, meta=meta)

    return Rewrite(lambda row: [rewrite(row.current)], scanner.where, keys)


def _parse_tag(scanner: ArgumentScanner) -> Rewrite:
    tag = scanner.word("a tag")
    return Rewrite(lambda row: [with_tags(row.current, (*row_tags(row.current), tag))], scanner.where)


def _parse_untag(scanner: ArgumentScanner) -> Rewrite:
    tag = scanner.word("a tag")
    return Rewrite(lambda row: [with_tags(row.current, tuple(own for own in row_tags(row.current) if own != tag))], scanner.where)


def with_tags(row: Row, tags: tuple[str, ...]) -> Row:
    """Return ``row`` with ``tags``, each once."""
    tags = tuple(dict.fromkeys(tags))
    if tags == row_tags(row):
        return row
    return replace(row, meta={**{key: value for key, value in row.meta.items() if key != "tag"}, "tags": list(tags)})


def _parse_set(scanner: ArgumentScanner) -> Rewrite:
    key, value = scanner.word("a key"), scanner.word("a value")
    return _step(scanner, lambda meta: {**meta, key: value})


def _parse_unset(scanner: ArgumentScanner) -> Rewrite:
    key = scanner.word("a key")
    return _step(scanner, lambda meta: {name: value for name, value in meta.items() if name != key})


def _parse_rename(scanner: ArgumentScanner) -> Rewrite:
    old, new = scanner.word("a key"), scanner.word("its new name")

    def rename(meta: Metadata) -> Metadata:
        if old in meta and new in meta:
            raise DataError(f"the row has both {one_line(old, 30)} and {one_line(new, 30)}.")
        return {(new if name == old else name): value for name, value in meta.items()}

    return _step(scanner, rename, old, new)


VERBS = (
    Verb("drop FILTER", "leave out the rows that match", _parse_filter(keep=False)),
    Verb("keep FILTER", "leave out the rows that do not match", _parse_filter(keep=True)),
    Verb("sample N [per KEY] [seed N]", "keep N random rows, or N for each value of a key", _parse_sample),
    Verb("cap KEY N [seed N]", "keep at most N rows for each value of a key, and all rows without it", _parse_cap),
    Verb(
        "dedupe [accepted] [contract] [length] [newest]",
        "keep one row per prompt: the accepted one, the one that keeps the contract, the longest answer, or the newest, in this order",
        _parse_dedupe,
    ),
    Verb("tag NAME", "add a tag", _parse_tag),
    Verb("untag NAME", "remove a tag", _parse_untag),
    Verb("set KEY VALUE", "set a metadata key", _parse_set),
    Verb("unset KEY", "remove a metadata key", _parse_unset),
    Verb("rename KEY NEW", "rename a metadata key", _parse_rename),
    Verb("where [FILTER]", "change only matching rows from here on; without a filter, all rows again", _parse_where),
    Verb("merge FILE", "add the rows of another file; needs a new file", _parse_merge),
)
