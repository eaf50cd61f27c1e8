import mlx.core as mx
import numpy as np
import pytest

from mlxtune.core.errors import MlxtuneError
from mlxtune.serving.protocol import Sampling
from mlxtune.serving.sampling import choose_tokens

GREEDY = Sampling()


def test_greedy_returns_the_best_token_and_its_margin() -> None:
    first, second = choose_tokens(mx.array([[0.0, 3.0, 2.5], [1.0, 1.0, 0.0]]), [(GREEDY, 0, 0)] * 2)
    assert (first.token, first.margin) == (1, 0.5)
    assert (second.token, second.margin) == (0, 0.0)


@pytest.mark.slow
def test_samples_follow_the_softmax() -> None:
    scores = np.array([0.5, 1.5, -1.0, 0.0], np.float32)
    sampling = Sampling(temperature=0.7)
    tokens = [choose_tokens(mx.array(scores[None]), [(sampling, seed, 3)])[0].token for seed in range(2000)]
    expected = np.exp(scores / 0.7) / np.exp(scores / 0.7).sum()
    assert np.bincount(tokens, minlength=4) / 2000 == pytest.approx(expected, abs=0.03)


def test_only_the_nucleus_is_sampled() -> None:
    scores = mx.log(mx.array([[0.1, 0.5, 0.3, 0.1]]))
    tokens = {choose_tokens(scores, [(Sampling(temperature=1.0, top_p=0.7), seed, 0)])[0].token for seed in range(200)}
    assert tokens == {1, 2}
    assert {choose_tokens(scores, [(Sampling(temperature=1.0, top_p=0.01), seed, 0)])[0].token for seed in range(50)} == {1}
    assert choose_tokens(scores, [(Sampling(temperature=1.0, top_p=1e-320), 0, 0)])[0].token == 1


def test_a_sample_depends_on_seed_and_position_only() -> None:
    scores = mx.random.normal((3, 50), key=mx.random.key(1))
    samplings = [Sampling(temperature=1.0), GREEDY, Sampling(temperature=1.0, top_p=0.5)]
    together = choose_tokens(scores, [*zip(samplings, [5, 0, -6], [2, 2, 9], strict=True)])
    for row in range(3):
        assert choose_tokens(scores[row : row + 1], [(samplings[row], [5, 0, -6][row], [2, 2, 9][row])]) == [together[row]]
    tokens = {choose_tokens(scores[:1], [(samplings[0], 5, position)])[0].token for position in range(20)}
    assert len(tokens) > 3


def test_the_margin_is_zero_at_the_border_of_the_nucleus() -> None:
    scores = mx.log(mx.array([[0.4, 0.3, 0.3]]))
    choices = [choose_tokens(scores, [(Sampling(temperature=1.0, top_p=0.7), seed, 0)])[0] for seed in range(100)]
    assert {choice.token for choice in choices if choice.margin > 0} == {0, 1}
    assert any(choice.margin == 0 for choice in choices)


def test_nan_logits_raise_an_error() -> None:
    with pytest.raises(MlxtuneError, match="produced NaNs"):
        choose_tokens(mx.array([[float("nan")] * 3]), [(GREEDY, 0, 0)])
