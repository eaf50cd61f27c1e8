"""Sampling: tokens follow the model's own distribution, and a seed determines them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlxtune.models.generate import token_sampler


def test_samples_follow_the_distribution_and_the_seed() -> None:
    logits = mx.log(mx.array([[0.5, 0.3, 0.2]] * 4000))
    first, second, other = (np.array(token_sampler(seed)(logits)) for seed in (3, 3, 4))
    assert (first == second).all()
    assert (first != other).any()
    assert np.abs(np.bincount(first, minlength=3) / 4000 - [0.5, 0.3, 0.2]).max() < 0.03
    assert np.array(token_sampler(0)(logits)).tolist() == [0] * 4000
