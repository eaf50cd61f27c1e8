"""The certificate counts what trained, and says no when the counts cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxtune.core.errors import MlxtuneError
from mlxtune.data.rows import Place
from mlxtune.models.template import Encoded
from mlxtune.training.batches import collate
from mlxtune.training.certificate import FILE, Certificate, fingerprint


def row(at: int, length: int, full: int = 0) -> Encoded:
    tokens = np.arange(length, dtype=np.int32) + at
    return Encoded(f"row{at}", Place(Path("f.jsonl"), at + 1), tokens, np.arange(length) >= 3, full or length)


ROWS = [row(0, 6), row(1, 9), row(2, 12, full=40)]


def test_it_counts_visits_and_tokens_of_each_row(tmp_path: Path) -> None:
    certificate = Certificate(ROWS)
    for chosen in ([0, 1], [2], [2, 0]):
        certificate.count(collate(ROWS, chosen, 0).counts)
    certificate.write(tmp_path)
    told = json.loads((tmp_path / FILE).read_text())
    assert [(row["id"], row["line"], row["visits"], row["seen"], row["trained"], row["truncated"]) for row in told["rows"]] == [
        ("row0", 1, 2, 12, 6, False),
        ("row1", 2, 1, 9, 6, False),
        ("row2", 3, 2, 24, 18, True),
    ]
    assert told["totals"] == {"visits": 5, "seen": 45, "trained": 30, "truncated": 1}


def test_a_restored_certificate_goes_on_and_shares_nothing(tmp_path: Path) -> None:
    first, second = Certificate(ROWS), Certificate(ROWS)
    first.count(collate(ROWS, [0, 1, 2], 0).counts)
    second.restore(json.loads(json.dumps(first.state)))
    second.count(collate(ROWS, [1], 0).counts)
    assert (first.visits, second.visits) == ([1, 1, 1], [1, 2, 1])


def test_counts_that_cannot_be_are_refused_and_leave_no_certificate(tmp_path: Path) -> None:
    certificate = Certificate(ROWS)
    certificate.count({0: (6, 3), 1: (9, 5)})
    with pytest.raises(MlxtuneError, match=r"f\.jsonl.*2: 1 visits trained 5 tokens, which cannot be") as refused:
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
def test_the_fingerprint_sees_every_change_of_what_trains(other: list[Encoded]) -> None:
    assert fingerprint(other) != fingerprint(ROWS) == fingerprint([*ROWS])
