"""Which rows train, which validate, and which are held out, by content and not by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlxtune.core.errors import DataError
from mlxtune.core.text import plural
from mlxtune.data import membership
from mlxtune.data.decisions import tags
from mlxtune.data.draw import Item, draw
from mlxtune.data.groups import group, question, together
from mlxtune.data.membership import SHARES, Asked, Membership, Share
from mlxtune.data.rows import Row
from mlxtune.data.source import Source
from mlxtune.recipe import DataSection

__all__ = ["Split", "group", "record", "split"]


@dataclass(frozen=True)
class Split:
    """The three shares of a source, and new rows that fit none of them: their twins stand in more than one.

    ``kept`` are the hashes of rows and questions that were sealed before, by an evaluation or an export.
    """

    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]
    set_aside: tuple[Row, ...] = ()
    kept: frozenset[str] = frozenset()

    @property
    def sealed(self) -> frozenset[str]:
        """Hashes that must never train: of the held-out questions, and of the rows and questions that were sealed before."""
        return self.kept | {question(row) for row in self.test}

    def refuse_sealed(self, rows: Iterable[Row]) -> None:
        """Raise ``DataError`` if any of ``rows``, which are about to train, is sealed or asks what a held-out row asks."""
        sealed = self.sealed
        leaked = [row for row in rows if row.hash in sealed or question(row) in sealed]
        if leaked:
            named = "; ".join(str(row.place) for row in leaked[:5])
            raise DataError(
                f"{plural(len(leaked), 'row')} about to train {'stands' if len(leaked) == 1 else 'stand'} in the held-out share too: {named}.",
                mend="Remove them from one side: an evaluation on trained rows proves nothing.",
            )


def split(source: Source, data: DataSection) -> Split:
    """Divide ``source``; parts that the source's own files decide are kept.

    Rows that :func:`groups.together` ties go together, as :func:`draw.draw` says: into the share that was recorded for them (with
    :func:`record`, for the same seed and shares), else where their seeded draw puts them. So a row without twins and tags never
    moves, whatever is added, and one that was recorded never moves at all. Sealed rows are held out whatever is asked. New rows whose
    twins stand in several shares are set aside.

    Raises ``DataError`` when a share that was asked for comes out empty or held-out rows stand among the others.
    """
    parts = dict(source.parts)
    pool = parts.pop("all" if "all" in parts else "train")
    wanted: dict[Share, float] = {
        "test": 0.0 if "test" in parts else data.holdout,
        "valid": 0.0 if "valid" in parts else data.validation,
    }
    known = membership.load(source.path)
    recorded = known.splits.get(Asked.of(data), {})
    questions = [question(row) for row in pool]
    places = []
    for row, asked in zip(pool, questions, strict=True):
        share = _place((row.hash, source.edited.get(row.hash, row.hash), asked), recorded, known.sealed)
        places.append(None if share in parts else share)
    # where every row has its place there is nothing that twins could decide
    labels = together(pool, questions, data.group_by) if None in places else range(len(pool))
    items = [
        Item(label, group(row, data.group_by) if data.group_by else asked, next(iter(tags(row)), ""), share)
        for row, asked, label, share in zip(pool, questions, labels, places, strict=True)
    ]
    shares: dict[Share | None, list[Row]] = {None: []} | {share: list(parts.get(share, ())) for share in SHARES}
    for row, chosen in zip(pool, draw(items, wanted, data.seed), strict=True):
        shares[chosen].append(row)
    least: dict[Share, float] = {"train": 1.0, "valid": data.validation, "test": data.holdout}
    for share, wish in least.items():
        if wish and not shares[share]:
            raise DataError(
                f"{plural(len(source.rows), 'row')} are too few: the {share} share is empty.",
                mend="Add rows, or change data.holdout and data.validation.",
            )
    train, valid, test, aside = (tuple(shares[share]) for share in (*SHARES, None))
    result = Split(train, valid, test, aside, known.sealed)
    result.refuse_sealed((*result.train, *result.valid))
    return result


def _place(names: Iterable[str], recorded: Mapping[str, Share], sealed: frozenset[str]) -> Share | None:
    """The share that a row with these hashes has, if it is known; an edit may have made it ask what a row elsewhere asks."""
    if not sealed.isdisjoint(names):
        return "test"
    found = {recorded[name] for name in names if name in recorded}
    return found.pop() if len(found) == 1 else None


def record(source: Source, data: DataSection, shares: Split, *, seal: bool = False) -> None:
    """Write down beside ``source`` where each row stands, so that it stays there; with ``seal``, what is held out may never train.

    Nothing is written where nothing is new. Raises ``DataError`` for a broken file there, ``MachineError`` where none can be written.
    """
    with membership.changing(source.path):
        known = membership.load(source.path)
        placed = dict(known.splits.get(Asked.of(data), {}))
        sealed = set(known.sealed)
        for part in SHARES:
            for row in getattr(shares, part):
                names = {row.hash, question(row), source.edited.get(row.hash, row.hash)}
                placed |= dict.fromkeys(names, part)
                if seal and part == "test":
                    sealed |= names
        made = Membership({**known.splits, Asked.of(data): placed}, frozenset(sealed))
        if made != known:
            membership.save(source.path, made)
