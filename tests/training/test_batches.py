"""Every row once an epoch, in an order that depends on the seed, with little padding and no padded target."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from mlxtune.data.rows import Place
from mlxtune.models.template import Encoded
from mlxtune.training import batches


def row(at: int, length: int, first: int = 2) -> Encoded:
    tokens = np.arange(1, length + 1, dtype=np.int32) + at
    return Encoded(f"row{at}", Place(Path("f"), at), tokens, np.arange(length) >= first, length)


@pytest.fixture
def rows() -> list[Encoded]:
    dice = random.Random(5)
    return [row(at, dice.randint(5, 200)) for at in range(203)]


@pytest.mark.parametrize("size", [0, 7])
def test_an_epoch_visits_every_row_exactly_once(rows: list[Encoded], size: int) -> None:
    made = batches.epoch(rows, seed=1, number=0, batch_tokens=1024, batch_size=size, prefix=0)
    assert sorted(at for batch in made for at in batch) == list(range(len(rows)))
    assert all(len(batch) <= 7 for batch in made) or not size


def test_epochs_differ_and_seeds_repeat(rows: list[Encoded]) -> None:
    settings = {"batch_tokens": 1024, "batch_size": 0, "prefix": 0}
    first, second = (batches.epoch(rows, seed=1, number=number, **settings) for number in (0, 1))
    assert first != second
    assert first == batches.epoch(rows, seed=1, number=0, **settings)
    assert first != batches.epoch(rows, seed=2, number=0, **settings)


def test_a_batch_stays_in_its_budget_and_pads_little(rows: list[Encoded]) -> None:
    made = batches.epoch(rows, seed=1, number=0, batch_tokens=1024, batch_size=0, prefix=0)
    computed = [batches.collate([rows[at] for at in batch], 0).inputs.size for batch in made]
    assert max(computed) <= 1024
    assert sum(computed) / sum(len(row.tokens) - 1 for row in rows) < 1.2


def test_targets_are_the_trained_tokens_and_never_padding(rows: list[Encoded]) -> None:
    some = rows[:5]
    batch = batches.collate(some, 0)
    flat = np.array(batch.inputs).reshape(-1)
    expected = [token for row in some for token in row.tokens[row.trained].tolist()]
    assert np.array(batch.targets).tolist() == expected
    assert (flat[np.array(batch.positions)] == np.array(batch.targets) - 1).all()  # these rows count up by one


def test_a_shared_prefix_leaves_every_target_to_its_row() -> None:
    shared = list(range(100, 130))
    rows = [
        Encoded(
            str(at),
            Place(Path("f"), at),
            np.array([*shared, 7, *tail], np.int32),
            np.array([False] * 31 + [True] * len(tail)),
            31 + len(tail),
        )
        for at, tail in enumerate([[1, 2, 3], [4, 5], [6]])
    ]
    prefix = batches.shared_prefix(rows)
    assert prefix == 30
    batch = batches.collate(rows, prefix)
    assert np.array(batch.prefix).tolist() == shared
    assert np.array(batch.targets).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array(batch.inputs)[:, 0].tolist() == [7, 7, 7]
    assert batches.shared_prefix(rows[:1]) == 0
