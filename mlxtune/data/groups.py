"""Which rows must not straddle a split: those with one question, nearly the same question, or one value of the metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import Row

Pair = tuple[int, int, float]

ALIKE = (0.8, 0.9, 0.95, 0.99, 1.0)  # Jaccard similarities, tried from the left
CROWD = 0.25  # of all rows: near twins that are more than this differ by what they are about, and not by accident
_FEW = 16  # rows that hang together are no crowd, however few there are in all


def question(row: Row) -> str:
    """The hash of what is asked, case and white space apart."""
    return sha256_json(_folded(row.question))


def asked(row: Row) -> str:
    """The text by which rows are near twins: all that is asked, a line between two turns, or a text itself."""
    return "\n".join(_words(row.question))


def group(row: Row, key: str) -> str:
    """What a row goes by: the ``key`` of its metadata if it has one, else its question."""
    if key and row.meta.get(key) is not None:
        return f"{key}={row.meta[key]}"
    return question(row)


def together(rows: Sequence[Row], questions: Sequence[str], key: str = "") -> list[int]:
    """A label for each of ``rows``, whose hashes ``questions`` are: rows that must stay together, as :func:`near` says, have the same one."""
    from mlxtune.data import similar  # it loads numpy, which a verb that divides nothing need not wait for

    numbers = {hash: at for at, hash in enumerate(dict.fromkeys(questions))}
    which = [numbers[hash] for hash in questions]
    texts = [""] * len(numbers)
    first: dict[str, int] = {}
    fixed: list[Pair] = []
    for row, at in zip(rows, which, strict=True):
        texts[at] = texts[at] or asked(row)
        if key and row.meta.get(key) is not None:
            fixed.append((at, first.setdefault(f"{key}={row.meta[key]}", at), 1.0))
    labels = similar.components(len(texts), [*fixed, *near(texts, Counter(which))])
    return [labels[at] for at in which]


def near(texts: Sequence[str], weight: Counter[int] | None = None) -> list[Pair]:
    """Links between near twins, as ``similar.links`` gives them; ``weight`` says how many rows each of ``texts`` stands for.

    Near twins are 0.8 alike. Where more than a quarter of all rows hang together that way, they were made from one template, and
    among them only those that are 0.9 alike are twins; or 0.95, or 0.99, until no such crowd is left. Up to 16 are never a crowd.
    """
    from mlxtune.data import similar  # it loads numpy, which a verb that divides nothing need not wait for

    found = similar.links(texts, ALIKE[0])
    total = len(texts) if weight is None else weight.total()
    for threshold in ALIKE[1:]:
        labels = similar.components(len(texts), found)
        held = Counter(labels) if weight is None else Counter[int]()
        for at, count in (weight or {}).items():
            held[labels[at]] += count
        crowds = {label for label, count in held.items() if count > max(CROWD * total, _FEW)}
        members = {label: [at for at, its in enumerate(labels) if its == label] for label in sorted(crowds)}
        if all(len(ranks) == 1 for ranks in members.values()):
            break
        found = [pair for pair in found if labels[pair[0]] not in crowds]
        for ranks in members.values():
            found += [(ranks[i], ranks[j], alike) for i, j, alike in similar.links([texts[at] for at in ranks], threshold)]
    return found


def _words(value: Any) -> Iterator[str]:
    """Every text in a question, but for the names of roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "role":
                yield from _words(item)


def _folded(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, list):
        return [_folded(item) for item in value]
    return {name: _folded(item) for name, item in value.items()} if isinstance(value, dict) else value
