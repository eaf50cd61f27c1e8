"""Verbs that change metadata: ``tag``, ``untag``, ``set``, ``unset``, ``rename`` and ``map``."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data.readers.formats import parse_mapping
from mlxtune.data.rows import Row, row_tags
from mlxtune.data.transforms.transform import ArgumentScanner, Rewrite, Verb, no_change

Metadata = dict[str, Any]


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


def _parse_map(scanner: ArgumentScanner) -> Rewrite:
    scanner.mapping |= parse_mapping(scanner.word("columns"))
    return Rewrite(no_change)


TAG = Verb("tag NAME", "add a tag", _parse_tag)
UNTAG = Verb("untag NAME", "remove a tag", _parse_untag)
SET = Verb("set KEY VALUE", "set a metadata key", _parse_set)
UNSET = Verb("unset KEY", "remove a metadata key", _parse_unset)
RENAME = Verb("rename KEY NEW", "rename a metadata key", _parse_rename)
MAP = Verb("map KEY=COLUMN,…", "read columns as our keys, such as prompt=question; needs a new file", _parse_map)
