"""Sampling: tokens follow the model's own distribution, and a seed determines them."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.models import generate as generation
from mlxtune.models.cpu import streams
from mlxtune.models.generate import GenerationSettings, TokenSampler
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve

PROBABILITIES = [0.5, 0.3, 0.2]


def _tokens(seeds: list[int], steps: int) -> list[list[int]]:
    """Return ``steps`` samples for each seed, from rows that are chosen together."""
    sampler, logits = TokenSampler(seeds), mx.log(mx.array([PROBABILITIES] * len(seeds)))
    return np.array([np.array(sampler(logits, range(len(seeds)))) for _ in range(steps)]).T.tolist()


@pytest.mark.slow
def test_samples_follow_the_distribution_and_the_seed() -> None:
    first, second, other, greedy = _tokens([3, 3, 4, 0], 2000)
    assert first == second != other
    for samples in (first, other):
        assert np.abs(np.bincount(samples, minlength=3) / 2000 - PROBABILITIES).max() < 0.04
    assert set(greedy) == {0}
    first_tokens = [row[0] for row in _tokens(list(range(1, 2001)), 1)]
    assert np.abs(np.bincount(first_tokens, minlength=3) / 2000 - PROBABILITIES).max() < 0.04


def test_samples_do_not_depend_on_the_other_rows() -> None:
    together = _tokens([5, 0, 9], 20)
    assert together == [_tokens([seed], 20)[0] for seed in (5, 0, 9)]


@pytest.mark.parametrize("mlx_lm", [False, True])
def test_sampled_answers_do_not_depend_on_the_batch_or_the_number_of_cores(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, mlx_lm: bool
) -> None:
    loaded = load(resolve(str(tiny)))
    prompts = [[5 + row, *range(9, 9 + row % 3)] for row in range(20)]
    if mlx_lm:
        monkeypatch.setattr(generation, "PrefixCache", lambda model: lambda prompts: None)

    def answers(batch_size: int, cores: int) -> list[str]:
        monkeypatch.setattr(streams._local, "pool", streams.StreamPool(cores), raising=False)
        settings = GenerationSettings(max_tokens=8, stops=frozenset({0}), batch_size=batch_size)
        request = generation.PromptGroup(prompts, settings, seeds=[row % 4 and row for row in range(20)])
        outputs = generation.generate(loaded.model, loaded.tokenizer, [request])
        return [output.text for output in outputs]

    assert answers(20, 2) == answers(20, 1) == answers(3, 1)
