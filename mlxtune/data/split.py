"""Which rows train, which validate, and which are held out, by content and not by position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlxtune.core.errors import DataError
from mlxtune.core.hashing import sha256_json, unit_interval
from mlxtune.core.text import plural
from mlxtune.data.rows import Row
from mlxtune.data.source import Source
from mlxtune.recipe import DataSection


@dataclass(frozen=True)
class Split:
    """The three shares of a source. ``sealed`` are the hashes that must never train."""

    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]

    @property
    def sealed(self) -> frozenset[str]:
        """Question hashes of the held-out rows."""
        return frozenset(group(row, "") for row in self.test)

    def refuse_sealed(self, rows: Iterable[Row]) -> None:
        """Raise ``DataError`` if any of ``rows``, which are about to train, asks what a held-out row asks."""
        sealed = self.sealed
        leaked = [row for row in rows if group(row, "") in sealed]
        if leaked:
            named = "; ".join(str(row.place) for row in leaked[:5])
            raise DataError(
                f"{plural(len(leaked), 'row')} about to train {'stands' if len(leaked) == 1 else 'stand'} in the held-out share too: {named}.",
                mend="Remove them from one side: an evaluation on trained rows proves nothing.",
            )


def split(source: Source, data: DataSection) -> Split:
    """Divide ``source``.

    Membership depends on the row's group and ``data.seed`` only, so rows that are added never move old ones, and rows with
    the same question (or the same ``group_by`` value) stay together. Parts that the source's own files decide are kept.
    Raises ``DataError`` when a share that was asked for comes out empty or held-out rows stand among the others.
    """
    parts = dict(source.parts)
    pool = parts.pop("all", None) or parts.pop("train")
    holdout = 0.0 if "test" in parts else data.holdout
    validation = 0.0 if "valid" in parts else data.validation
    shares: dict[str, list[Row]] = {"train": [], "valid": list(parts.get("valid", ())), "test": list(parts.get("test", ()))}
    for row in pool:
        draw = unit_interval(data.seed, group(row, data.group_by))
        shares["test" if draw < holdout else "valid" if draw < holdout + validation else "train"].append(row)
    for name, asked in (("train", 1.0), ("valid", data.validation), ("test", data.holdout)):
        if asked and not shares[name]:
            raise DataError(
                f"{plural(len(source.rows), 'row')} are too few: the {name} share is empty.",
                mend="Add rows, or change data.holdout and data.validation.",
            )
    result = Split(tuple(shares["train"]), tuple(shares["valid"]), tuple(shares["test"]))
    result.refuse_sealed((*result.train, *result.valid))
    return result


def group(row: Row, key: str) -> str:
    """What must not straddle a split: the ``key`` of the row's metadata if it has one, else its question, case and space apart."""
    if key and row.meta.get(key) is not None:
        return f"{key}={row.meta[key]}"
    return sha256_json(_folded(row.question))


def _folded(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, list):
        return [_folded(item) for item in value]
    return {name: _folded(item) for name, item in value.items()} if isinstance(value, dict) else value
