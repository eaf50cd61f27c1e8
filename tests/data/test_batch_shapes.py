"""A few padded shapes cover a run's batches with little padding."""

import random
from collections import Counter
from functools import partial

import pytest

from mlxtune.data import batching
from mlxtune.data.batching import choose_shapes, pair_batch_shape, row_batch_cost, row_batch_shape

ROWS, EPOCHS = 2000, 3


def log_normal_lengths(median: int, sigma: float) -> list[int]:
    dice = random.Random(3)
    return [min(2048, max(16, round(median * dice.lognormvariate(0, sigma)))) for _ in range(ROWS)]


@pytest.mark.parametrize("batch_size", [4, 0])
@pytest.mark.parametrize("streams", [1, 2])
def test_two_thousand_log_normal_rows_need_few_shapes(batch_size: int, streams: int) -> None:
    lengths, dice = log_normal_lengths(200, 0.6), random.Random(4)
    trained = [round(length * dice.uniform(0.1, 0.5)) for length in lengths]
    arrange = partial(batching.group_by_length, lengths, batch_tokens=2048, batch_size=batch_size)
    batches = [batch for epoch in range(EPOCHS) for batch in batching.epoch_batches(ROWS, arrange, seed=0, number=epoch)]
    each = [row_batch_shape([lengths[at] for at in batch], [trained[at] for at in batch], streams) for batch in batches]
    assert len(set(each)) > 400
    padded = choose_shapes(Counter(each), row_batch_cost)
    assert padded.keys() == set(each)
    assert len(set(padded.values())) <= batching.MAX_SHAPES
    assert all(size <= larger for shape in each for size, larger in zip(shape, padded[shape], strict=True))
    computed = sum(padded[shape][0] * padded[shape][1] for shape in each)
    assert computed <= 1.10 * EPOCHS * sum(lengths)


def test_few_shapes_are_not_padded() -> None:
    batches = {(4, 64, 16): 10, (4, 128, 32): 10, (3, 64, 8): 10}
    assert choose_shapes(batches, row_batch_cost) == {shape: shape for shape in batches}


def test_similar_shapes_share_one() -> None:
    batches = {(4, 1000, 16): 10, (4, 1001, 16): 10, (4, 100, 16): 10}
    padded = choose_shapes(batches, row_batch_cost)
    assert padded == {(4, 1000, 16): (4, 1001, 16), (4, 1001, 16): (4, 1001, 16), (4, 100, 16): (4, 100, 16)}


def test_every_limit_is_kept() -> None:
    dice = random.Random(1)
    batches = Counter(tuple(dice.randint(1, 50) for _ in range(7)) for _ in range(300))
    for limit in (1, 2, 5, 31):
        assert len(set(choose_shapes(batches, batching.pair_batch_cost, limit).values())) == limit


def test_pairs_have_one_size_per_array() -> None:
    pairs, common = [(10, 20, 30), (13, 4, 5)], [2, 0]
    assert pair_batch_shape(pairs, common, 1, shared=True) == (2, 64, 64, 32)
    assert pair_batch_shape(pairs, common, 2, shared=True) == (2, 64, 56, 32)
    assert pair_batch_shape(pairs, common, 1, shared=False) == (2, 40, 32, 64, 32)
