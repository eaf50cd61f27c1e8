"""The ranges of a search, and the trials that are drawn from them."""

import pytest

from mlxtune.planning.training_rule import by_rule, training_rule
from mlxtune.present.search import values_text
from mlxtune.recipe import parse
from mlxtune.training.search.space import Choices, draw_trials, log_scale, search_space, with_values

RECIPE = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\nreplay = 0.2\n'


def test_default_ranges():
    space = search_space(parse(f"{RECIPE}[training]\nepochs = 3\n"), 30)
    assert space["epochs"] == Choices((1, 3, 6))
    assert "epochs" not in search_space(parse(f"{RECIPE}[training]\nsteps = 60\n"), 30)


@pytest.mark.parametrize("rows", [50, 500, 5000])
def test_the_first_trials_bracket_the_rule(rows):
    recipe = parse(f"{RECIPE}[training]\nlearning_rate = 2e-5\nepochs = 1\nbatch_size = 16\n")
    rule, center = training_rule("sft", 576, rows), by_rule(recipe, 576, rows)
    own, first, *others = draw_trials(recipe, center, 30, 12)
    assert (own["learning_rate"], own["epochs"], own["batch_size"]) == (2e-5, 1, 16)
    assert (first["learning_rate"], first["epochs"], first["batch_size"]) == (rule.learning_rate, rule.epochs, rule.batch_size)
    assert [trial["learning_rate"] / rule.learning_rate for trial in others[:3]] == pytest.approx([2, 0.5, 1], rel=0.05)
    assert [trial["epochs"] for trial in others[:3]] == [rule.epochs, 2 * rule.epochs, 2 * rule.epochs]
    assert all(rule.learning_rate / 5.01 <= trial["learning_rate"] <= rule.learning_rate * 5.01 for trial in others)
    assert len({trial["batch_size"] for trial in others}) > 1


def test_ranges_of_the_recipe_take_precedence_over_the_bracket():
    recipe = parse(f"{RECIPE}[search]\nlearning_rate = [1e-5, 2e-5]\n")
    _, *others = draw_trials(recipe, by_rule(recipe, 576, 50), 30, 8)
    assert all(1e-5 <= trial["learning_rate"] <= 2e-5 for trial in others)


def test_a_recipe_by_the_rule_is_not_tried_twice():
    center = by_rule(parse(RECIPE), 576, 50)
    trials = draw_trials(center, center, 30, 8)
    assert len({values_text(trial) for trial in trials}) == len(trials) == 8


def test_replay_is_searched_only_if_shares_are_listed():
    recipe = parse(f"{RECIPE}[search]\nreplay = [0.2, 0, 0.4]\n")
    space = search_space(recipe, 30)
    assert space["replay"] == Choices((0, 0.2, 0.4))
    trials = draw_trials(recipe, by_rule(recipe, 576, 50), 30, 8)
    assert trials[0]["replay"] == 0.2
    assert {trial["replay"] for trial in trials} == {0, 0.2, 0.4}
    assert {with_values(recipe, trial).data.replay for trial in trials} == {0.0, 0.2, 0.4}
    assert "replay 0," in values_text({"replay": 0.0, "seed": 1})


@pytest.mark.parametrize(("values", "numbers"), [([0, 0.2], [0, 0.2]), ([1, "all", 1], [0, 0, 0])])
def test_scale(values, numbers):
    assert log_scale(values) == numbers
