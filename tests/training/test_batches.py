"""Batches cover every row once per epoch in seeded order, with little padding and no padded targets."""

import random
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlxtune.data import batching
from mlxtune.data.rows import Location
from mlxtune.models.encoded import Encoded
from mlxtune.recipe import TrainingSection
from mlxtune.training import sft


def row(at: int, length: int, first: int = 2) -> Encoded:
    tokens = np.arange(1, length + 1, dtype=np.int32) + at
    return Encoded(f"row{at}", Location(Path("f"), at), tokens, np.arange(length) >= first, length)


@pytest.fixture
def rows() -> list[Encoded]:
    dice = random.Random(5)
    return [row(at, dice.randint(5, 200)) for at in range(203)]


def lengths(rows: list[Encoded]) -> list[int]:
    return [len(row.tokens) - 1 for row in rows]


def epoch(rows: list[Encoded], size: int = 0, seed: int = 1, number: int = 0) -> list[list[int]]:
    arrange = partial(batching.group_by_length, lengths(rows), batch_tokens=1024, batch_size=size)
    return batching.epoch_batches(len(rows), arrange, seed=seed, number=number)


@pytest.mark.parametrize("size", [0, 7])
def test_epoch_visits_every_row_once(rows, size):
    batches = epoch(rows, size)
    assert sorted(at for batch in batches for at in batch) == list(range(len(rows)))
    assert all(len(batch) <= 7 for batch in batches) or not size


def test_epochs_differ_and_seeds_reproduce(rows):
    first, second = (epoch(rows, number=number) for number in (0, 1))
    assert first != second
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert first == epoch(rows)
    assert first != epoch(rows, seed=2)


@pytest.mark.parametrize("size", [0, 8])
def test_replayed_rows_are_spread_over_all_batches(rows, size):
    mixed = [*rows[:192], *(replace(row(at, 8), replay=True) for at in range(192, 256))]  # shorter than most other rows
    arrange = sft.SFTObjective().arrange(mixed, TrainingSection(batch_tokens=1024, batch_size=size))
    batches = batching.epoch_batches(len(mixed), arrange, seed=1, number=0)
    assert sorted(at for batch in batches for at in batch) == list(range(len(mixed)))
    shares = [sum(at >= 192 for at in batch) / len(batch) for batch in batches if len(batch) >= 4]
    assert all(0.1 < share < 0.5 for share in shares)
    assert max(sft.collate(mixed, batch, 0).computed_positions for batch in batches) <= 1024 or size


def test_epoch_order_is_independent_of_length(rows):
    batches = epoch(rows, 4)
    means = [sum(len(rows[at].tokens) for at in batch) / len(batch) for batch in batches]
    rising = sum(a < b for a, b in pairwise(means)) / (len(means) - 1)
    assert 0.35 < rising < 0.65


def test_batch_fits_budget_with_little_padding(rows):
    computed = [sft.collate(rows, batch, 0).computed_positions for batch in epoch(rows)]
    assert max(computed) <= 1024
    assert sum(computed) / sum(lengths(rows)) < 1.1


def test_lengths_are_rounded_to_few_sizes(rows):
    assert [batching.padded_length(length) for length in (0, 1, 8, 9, 256, 257, 512, 513)] == [8, 8, 8, 16, 256, 272, 512, 544]
    assert len({batching.padded_length(length) for length in range(1, 8193)}) < 120
