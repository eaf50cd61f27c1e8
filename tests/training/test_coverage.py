"""The coverage report counts trained rows and tokens and refuses impossible counts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxtune.core.errors import MlxtuneError
from mlxtune.data.rows import Location
from mlxtune.models.encoded import Encoded
from mlxtune.training.coverage import FILE, Coverage, rows_fingerprint
from mlxtune.training.sft import collate


def row(at: int, length: int, full: int = 0) -> Encoded:
    tokens = np.arange(length, dtype=np.int32) + at
    return Encoded(f"row{at}", Location(Path("f.jsonl"), at + 1), tokens, np.arange(length) >= 3, full or length)


ROWS = [row(0, 6), row(1, 9), row(2, 12, full=40)]


def test_counts_visits_and_tokens_of_each_row(tmp_path):
    certificate = Coverage(ROWS)
    for chosen in ([0, 1], [2], [2, 0]):
        certificate.count(collate(ROWS, chosen, 0).counts)
    certificate.write(tmp_path)
    report = json.loads((tmp_path / FILE).read_text())
    assert [(row["id"], row["line"], row["visits"], row["seen"], row["trained"], row["truncated"]) for row in report["rows"]] == [
        ("row0", 1, 2, 12, 6, False),
        ("row1", 2, 1, 9, 6, False),
        ("row2", 3, 2, 24, 18, True),
    ]
    assert report["totals"] == {"visits": 5, "seen": 45, "trained": 30, "truncated": 1}


def test_impossible_counts_are_refused_without_report(tmp_path):
    certificate = Coverage(ROWS)
    certificate.count({0: (6, 3), 1: (9, 5)})
    with pytest.raises(MlxtuneError, match=r"f\.jsonl.*2: the row was seen 1 time, but 5 trained tokens were counted") as refused:
        certificate.write(tmp_path)
    assert refused.value.exit_code == 4
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "other",
    [
        ROWS[::-1],
        ROWS[:2],
        [*ROWS[:2], replace(ROWS[2], id="else")],
        [*ROWS[:2], replace(ROWS[2], tokens=ROWS[2].tokens + 1)],
        [*ROWS[:2], replace(ROWS[2], trained=ROWS[2].trained & (np.arange(12) > 5))],
    ],
    ids=["order", "fewer", "id", "tokens", "mask"],
)
def test_fingerprint_changes_with_training_data(other):
    assert rows_fingerprint(other) != rows_fingerprint(ROWS) == rows_fingerprint([*ROWS])
