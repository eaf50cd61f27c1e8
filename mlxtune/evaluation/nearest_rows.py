"""Find the training rows most similar to a failed row, and who reviewed them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlxtune.core.files import write_text
from mlxtune.core.json_fields import to_json
from mlxtune.data import review
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.duplicates import Array, normalize_text, shingles
from mlxtune.data.rows import Row, prompt_text
from mlxtune.data.source import Source
from mlxtune.evaluation.evidence import NEAREST, NearestRow, ReviewDecision, to_jsonl

COUNT = 3
_MAX_ROWS = 10_000  # training rows whose vectors are computed
_MAX_RATIO = 20  # training rows per evaluated one, for whose vectors an evaluation takes the time
_FAILED = 256  # rows per batch

RowVectors = Mapping[str, npt.NDArray[np.float32]]  # unit vectors of rows by ID, whose dot products are similarities of meaning


def is_meaning_compared(evaluated: int, train: int) -> bool:
    """Return whether an evaluation computes the vectors of its ``train`` rows. Otherwise, only shared wording counts."""
    return train <= min(_MAX_ROWS, _MAX_RATIO * evaluated)


def save_nearest(
    folder: Path, failed: Sequence[Row], train: Sequence[Row], source: Source, vectors: RowVectors | None = None
) -> None:
    """Write ``nearest.jsonl``: for each failed row, its nearest training rows with their reviews."""
    by_hash: defaultdict[str, tuple[ReviewDecision, ...]] = defaultdict(tuple)  # copies of a row share decisions
    for step in review.load(source.path).steps:
        for hash in {name for _, after in step.changes for name in (after.row.partition("#")[0], after.after)}:
            by_hash[hash] += (ReviewDecision(step.who, step.action, step.t),)

    def reviews(row: Row) -> tuple[ReviewDecision, ...]:
        return by_hash.get(source.edited.get(row.hash, row.hash), by_hash.get(row.hash, ()))

    def nearest(index: int, similarity: float) -> NearestRow:
        row = train[index]
        file, line, element = row.location.file.name, row.location.line, row.location.element
        return NearestRow(row.id, file, line, prompt_text(row), similarity, reviews(row), element, target_text(row))

    found = zip(failed, nearest_rows(failed, train, vectors), strict=True)
    records = ({"id": row.id, "nearest": [to_json(nearest(*match)) for match in matches]} for row, matches in found)
    write_text(folder / NEAREST, to_jsonl(records))


def nearest_rows(
    failed: Sequence[Row], train: Sequence[Row], vectors: RowVectors | None = None, count: int = COUNT
) -> list[list[tuple[int, float]]]:
    """Return, for each failed row, its ``count`` nearest training rows as ``(index, similarity)``, most similar first.

    The search is exact: every pair is compared by the Jaccard similarity of its shingles and, with ``vectors``, by their cosine, each
    divided by its standard deviation over the training rows. The similarity returned, which decides the order, is then the cosine.
    Ties go to the earlier row.
    Without vectors, rows without a shared shingle are omitted.
    """
    return [
        matches
        for start in range(0, len(failed), _FAILED)
        for matches in _nearest(failed[start : start + _FAILED], train, vectors, count)
    ]


def _nearest(failed: Sequence[Row], train: Sequence[Row], vectors: RowVectors | None, count: int) -> list[list[tuple[int, float]]]:
    wording = _shared_wording(failed, train)
    if vectors is None or not len(train):
        return [[(index, float(row[index])) for index in _order(row, count) if row[index] > 0] for row in wording.T]
    meaning = np.stack([vectors[row.id] for row in train]) @ np.stack([vectors[row.id] for row in failed]).T
    score = sum(part / np.maximum(part.std(axis=0), 1e-6) for part in (wording, meaning))
    chosen = [
        [(index, max(0.0, float(meaning[index, column]))) for index in _order(row, count)] for column, row in enumerate(score.T)
    ]  # fmt: skip
    return [sorted(matches, key=lambda match: match[1], reverse=True) for matches in chosen]


def _order(scores: Array, count: int) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return order


def _shared_wording(failed: Sequence[Row], train: Sequence[Row]) -> Array:
    """Return the Jaccard similarities of the rows' shingles, of shape ``(train, failed)``."""
    sets = [shingles(normalize_text(prompt_text(row))) for row in failed]
    ids = {token: index for index, token in enumerate(sorted(frozenset().union(*sets)))}
    contains = np.zeros((len(ids), len(failed)), np.uint8)  # (shingles, failed)
    for column, tokens in enumerate(sets):
        contains[[ids[token] for token in tokens], column] = 1
    sizes = np.array([len(tokens) for tokens in sets])
    similarity = np.zeros((len(train), len(failed)), np.float32)
    for index, row in enumerate(train):
        tokens = shingles(normalize_text(prompt_text(row)))
        shared = contains[[ids[token] for token in tokens if token in ids]].sum(axis=0, dtype=np.int64)
        similarity[index] = shared / (sizes + len(tokens) - shared)
    return similarity
