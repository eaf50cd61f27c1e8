"""The ranges of a search, and the trials that are drawn from them."""

from __future__ import annotations

import pytest

from mlxtune.present.search import values_text
from mlxtune.recipe import parse
from mlxtune.training.search.space import Choices, draw_trials, log_scale, search_space, with_values

RECIPE = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\nreplay = 0.2\n'


def test_default_ranges() -> None:
    space = search_space(parse(f"{RECIPE}[training]\nepochs = 3\n"), 30)
    assert space["epochs"] == Choices((1, 3, 6))
    assert "epochs" not in search_space(parse(f"{RECIPE}[training]\nsteps = 60\n"), 30)


def test_replay_is_searched_only_if_shares_are_listed() -> None:
    recipe = parse(f"{RECIPE}[search]\nreplay = [0.2, 0, 0.4]\n")
    space = search_space(recipe, 30)
    assert space["replay"] == Choices((0, 0.2, 0.4))
    trials = draw_trials(recipe, space, 8)
    assert trials[0]["replay"] == 0.2
    assert {trial["replay"] for trial in trials} == {0, 0.2, 0.4}
    assert {with_values(recipe, trial).data.replay for trial in trials} == {0.0, 0.2, 0.4}
    assert "replay 0," in values_text({"replay": 0.0, "seed": 1})


@pytest.mark.parametrize(("values", "numbers"), [([0, 0.2], [0, 0.2]), ([1, "all", 1], [0, 0, 0])])
def test_scale(values: list[float | str], numbers: list[float]) -> None:
    assert log_scale(values) == numbers
