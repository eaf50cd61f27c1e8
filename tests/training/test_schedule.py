"""Learning rates against hand-computed values."""

import math

import pytest

from mlxtune.recipe import TrainingSection
from mlxtune.training.optimizer import learning_rate

# ten steps; the first two are warmup with 1/3 and 2/3 of the rate
BY_HAND = {
    "constant": [1, 1, 1, 1, 1, 1, 1, 1],
    "linear": [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8],
    "cosine": [1, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.03806],
    "wsd": [1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4],  # the last four of ten decay
}


@pytest.mark.parametrize(("kind", "after"), BY_HAND.items())
def test_rate_warms_up_then_follows_shape(kind, after):
    section = TrainingSection(learning_rate=3e-4, warmup=0.2, decay=0.4, schedule=kind)
    expected = [3e-4 * share for share in (1 / 3, 2 / 3, *after)]
    assert [learning_rate(section, step, 10) for step in range(10)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("total", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
def test_rate_stays_between_zero_and_recipe_maximum(kind, total, warmup):
    section = TrainingSection(learning_rate=1.0, warmup=warmup, schedule=kind)
    rates = [learning_rate(section, step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1 or warmup == 1 or total == 1  # a single step is all warmup
    assert all(math.isfinite(rate) for rate in rates)
