"""The next token: greedy, drawn, and how sure that is."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.core.errors import MlxtuneError
from mlxtune.serving.choose import choose
from mlxtune.serving.protocol import Sampling

GREEDY = Sampling()


def test_greedy_takes_the_best_and_says_by_how_much() -> None:
    first, second = choose(mx.array([[0.0, 3.0, 2.5], [1.0, 1.0, 0.0]]), [GREEDY] * 2, [0, 0], [0, 0])
    assert (first.token, first.margin) == (1, 0.5)
    assert (second.token, second.margin) == (0, 0.0)


def test_draws_follow_the_softmax() -> None:
    scores = np.array([0.5, 1.5, -1.0, 0.0], np.float32)
    wish = Sampling(temperature=0.7)
    drawn = [choose(mx.array(scores[None]), [wish], [seed], [3])[0].token for seed in range(2000)]
    expected = np.exp(scores / 0.7) / np.exp(scores / 0.7).sum()
    assert np.bincount(drawn, minlength=4) / 2000 == pytest.approx(expected, abs=0.03)


def test_only_the_nucleus_takes_part() -> None:
    scores = mx.log(mx.array([[0.1, 0.5, 0.3, 0.1]]))
    drawn = {choose(scores, [Sampling(temperature=1.0, top_p=0.7)], [seed], [0])[0].token for seed in range(200)}
    assert drawn == {1, 2}
    assert {choose(scores, [Sampling(temperature=1.0, top_p=0.01)], [seed], [0])[0].token for seed in range(50)} == {1}


def test_a_draw_depends_on_seed_and_position_and_on_no_other_row() -> None:
    scores = mx.random.normal((3, 50), key=mx.random.key(1))
    wishes = [Sampling(temperature=1.0), GREEDY, Sampling(temperature=1.0, top_p=0.5)]
    together = choose(scores, wishes, [5, 0, -6], [2, 2, 9])
    for row in range(3):
        assert choose(scores[row : row + 1], [wishes[row]], [[5, 0, -6][row]], [[2, 2, 9][row]]) == [together[row]]
    places = {choose(scores[:1], wishes[:1], [5], [position])[0].token for position in range(20)}
    assert len(places) > 3


def test_at_the_border_of_the_nucleus_nothing_is_certain() -> None:
    scores = mx.log(mx.array([[0.4, 0.3, 0.3]]))
    found = [choose(scores, [Sampling(temperature=1.0, top_p=0.7)], [seed], [0])[0] for seed in range(100)]
    assert {choice.token for choice in found if choice.margin > 0} == {0, 1}
    assert any(choice.margin == 0 for choice in found)


def test_scores_that_are_no_numbers_are_no_answer() -> None:
    with pytest.raises(MlxtuneError, match="no numbers"):
        choose(mx.array([[float("nan")] * 3]), [GREEDY], [0], [0])
