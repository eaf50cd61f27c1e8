"""Which rows that trained are most like a row that failed, and who reviewed them: where to look for the cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mlxtune.core.files import write_text
from mlxtune.data import review
from mlxtune.data.decisions import State
from mlxtune.data.groups import asked
from mlxtune.data.rows import Row
from mlxtune.data.similar import Array, shingles
from mlxtune.data.source import Source
from mlxtune.evaluation.evidence import NEAREST, Linked, Near, Reviewer, lines

COUNT = 3
_FAILED, _TRAIN = 256, 1024  # rows looked at at once


def keep(folder: Path, failed: Sequence[Row], train: Sequence[Row], source: Source) -> None:
    """Write ``nearest.jsonl``: for each of the ``failed`` rows its id, who reviewed it, and its nearest of the ``train`` rows."""
    state = review.load(source.path)
    who = _reviewers(state)

    def reviewed(row: Row) -> tuple[Reviewer, ...]:
        return who.get(source.edited.get(row.hash, row.hash), who.get(row.hash, ()))

    records = []
    for row, found in zip(failed, nearest(failed, train), strict=True):
        near = [
            Near(train[at].id, train[at].place.file.name, train[at].place.line, asked(train[at]), alike, reviewed(train[at]))
            for at, alike in found
        ]
        records.append({"id": row.id, **asdict(Linked(reviewed(row), tuple(near)))})
    write_text(folder / NEAREST, lines(records))


def nearest(failed: Sequence[Row], train: Sequence[Row], count: int = COUNT) -> list[list[tuple[int, float]]]:
    """For each of ``failed`` the ``count`` of ``train`` whose questions are most like its own: ``(index, similarity)``, most alike first.

    Exact: every pair is compared, by the Jaccard similarity of their shingles. Of equals the earlier rows come first; rows that share
    nothing with a failed one are none of its nearest.
    """
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(failed), _FAILED):
        found += _nearest(failed[start : start + _FAILED], train, count)
    return found


def _nearest(failed: Sequence[Row], train: Sequence[Row], count: int) -> list[list[tuple[int, float]]]:
    sets = [shingles(asked(row)) for row in failed]
    known = {token: at for at, token in enumerate(sorted(frozenset().union(*sets)))}
    has = np.zeros((len(known), len(failed)), np.uint8)  # (shingles, failed)
    for column, tokens in enumerate(sets):
        has[[known[token] for token in tokens], column] = 1
    sizes = np.array([len(tokens) for tokens in sets])
    best: list[list[tuple[int, float]]] = [[] for _ in failed]
    for start, alike in _alike(train, known, has, sizes):
        for column, held in enumerate(best):
            order = np.argsort(-alike[:, column], kind="stable")[:count]
            new = [(start + int(at), float(alike[at, column])) for at in order if alike[at, column] > 0]
            held[:] = sorted([*held, *new], key=lambda item: (-item[1], item[0]))[:count]
    return best


def _alike(train: Sequence[Row], known: dict[str, int], has: Array, sizes: Array) -> Iterator[tuple[int, Array]]:
    """Batches of train rows: the first one's index, and each one's similarity to each failed row, ``(train, failed)``."""
    for start in range(0, len(train), _TRAIN):
        batch = train[start : start + _TRAIN]
        alike = np.zeros((len(batch), len(sizes)))
        for at, row in enumerate(batch):
            tokens = shingles(asked(row))
            places = [known[token] for token in tokens if token in known]
            shared = has[places].sum(axis=0, dtype=np.int64)
            alike[at] = shared / (sizes + len(tokens) - shared)
        yield start, alike


def _reviewers(state: State) -> dict[str, tuple[Reviewer, ...]]:
    """The decisions that hold, by the hash of the row in its file and of what it was edited to; of copies all together."""
    found: defaultdict[str, list[Reviewer]] = defaultdict(list)
    for step in state.done:
        by = Reviewer(step.who, step.action, step.t)
        for hash in {name for _, after in step.changes for name in (after.row.partition("#")[0], after.after)}:
            found[hash].append(by)
    return {hash: tuple(steps) for hash, steps in found.items()}
