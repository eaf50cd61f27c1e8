"""Find the training rows most similar to a failed row, and who reviewed them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mlxtune.core.files import write_text
from mlxtune.data import review
from mlxtune.data.duplicates import Array, fold, shingles
from mlxtune.data.review import ReviewState
from mlxtune.data.rows import Row, prompt_text
from mlxtune.data.source import Source
from mlxtune.evaluation.evidence import NEAREST, FailureLinks, NearestRow, ReviewDecision, to_jsonl
from mlxtune.evaluation.json_fields import to_json

COUNT = 3
_FAILED, _TRAIN = 256, 1024  # rows per batch


def save_nearest(folder: Path, failed: Sequence[Row], train: Sequence[Row], source: Source) -> None:
    """Write ``nearest.jsonl``: for each failed row, its reviews and its nearest training rows with their reviews."""
    by_hash = _reviews_by_hash(review.load(source.path))

    def reviews(row: Row) -> tuple[ReviewDecision, ...]:
        return by_hash.get(source.edited.get(row.hash, row.hash), by_hash.get(row.hash, ()))

    def nearest(index: int, similarity: float) -> NearestRow:
        row = train[index]
        return NearestRow(row.id, row.location.file.name, row.location.line, prompt_text(row), similarity, reviews(row))

    records = [
        {"id": row.id, **to_json(FailureLinks(reviews(row), tuple(nearest(*match) for match in matches)))}
        for row, matches in zip(failed, nearest_rows(failed, train), strict=True)
    ]
    write_text(folder / NEAREST, to_jsonl(records))


def nearest_rows(failed: Sequence[Row], train: Sequence[Row], count: int = COUNT) -> list[list[tuple[int, float]]]:
    """Return, for each failed row, its ``count`` nearest training rows as ``(index, similarity)``, most similar first.

    The search is exact: every pair is compared by the Jaccard similarity of its shingles. Ties go to the earlier row, and rows
    without a shared shingle are omitted.
    """
    return [
        matches for start in range(0, len(failed), _FAILED) for matches in _nearest(failed[start : start + _FAILED], train, count)
    ]


def _nearest(failed: Sequence[Row], train: Sequence[Row], count: int) -> list[list[tuple[int, float]]]:
    sets = [shingles(fold(prompt_text(row))) for row in failed]
    ids = {token: index for index, token in enumerate(sorted(frozenset().union(*sets)))}
    contains = np.zeros((len(ids), len(failed)), np.uint8)  # (shingles, failed)
    for column, tokens in enumerate(sets):
        contains[[ids[token] for token in tokens], column] = 1
    sizes = np.array([len(tokens) for tokens in sets])
    best: list[list[tuple[int, float]]] = [[] for _ in failed]
    for start, similarity in _similarities(train, ids, contains, sizes):
        for column, matches in enumerate(best):
            order = np.argsort(-similarity[:, column], kind="stable")[:count]
            new = [(start + int(index), float(similarity[index, column])) for index in order if similarity[index, column] > 0]
            matches[:] = sorted([*matches, *new], key=lambda match: (-match[1], match[0]))[:count]
    return best


def _similarities(train: Sequence[Row], ids: dict[str, int], contains: Array, sizes: Array) -> Iterator[tuple[int, Array]]:
    """Yield, for each batch of training rows, the index of its first row and similarities of shape ``(train, failed)``."""
    for start in range(0, len(train), _TRAIN):
        batch = train[start : start + _TRAIN]
        similarity = np.zeros((len(batch), len(sizes)))
        for index, row in enumerate(batch):
            tokens = shingles(fold(prompt_text(row)))
            shared = contains[[ids[token] for token in tokens if token in ids]].sum(axis=0, dtype=np.int64)
            similarity[index] = shared / (sizes + len(tokens) - shared)
        yield start, similarity


def _reviews_by_hash(state: ReviewState) -> dict[str, tuple[ReviewDecision, ...]]:
    """Return the decisions in effect, keyed by the hashes of the original and the edited row; copies share decisions."""
    reviews: defaultdict[str, list[ReviewDecision]] = defaultdict(list)
    for step in state.steps:
        decision = ReviewDecision(step.who, step.action, step.t)
        for hash in {name for _, after in step.changes for name in (after.row.partition("#")[0], after.after)}:
            reviews[hash].append(decision)
    return {hash: tuple(decisions) for hash, decisions in reviews.items()}
