"""The price of a search, and the rungs that it is computed from."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.planning.plan import Cost
from mlxtune.planning.training_rule import training_rule
from mlxtune.present.search import price_text
from mlxtune.recipe import TrainingSection, parse
from mlxtune.training.optimizer import learning_rate
from mlxtune.training.search import board as boards
from mlxtune.training.search.budget import active_seconds, parse_budget, price_search

RECIPE = '[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n[training]\nepochs = 2\n'
SECTION = TrainingSection(learning_rate=1e-3)


def planned(**values: Any) -> Any:
    """Return a plan of 60 steps."""
    return SimpleNamespace(**{"steps": 60, "train": 0, "valid": 0, "test": 0, "evaluated": 0, "cost": Cost(None, "", 0.0)} | values)


def test_price():
    recipe = parse(f'name = "shop"\n{RECIPE}[search]\nepochs = [2]\n[evaluation]\nregression = ""\nrows = 50\n')
    plan = planned(train=400, valid=20, test=80, evaluated=50, cost=Cost(600.0, "probe", 0.0))
    price = price_search(recipe, plan, answering=2.0, watts=60.0)
    assert (price.steps, price.full_steps) == (8 * 10 + 4 * 12 + 3 * 44, 480)
    assert price.answers == 75 * (8 + 4 + 3) + 3 * 50
    assert price.seconds == pytest.approx(10 * price.steps + 2 * price.answers)
    assert price.kilowatt_hours == pytest.approx(price.seconds * 60 / 3.6e6)
    assert price.enough == 19
    text, options = price_text(price)
    assert "about 86 min, of which 42 min for the answers; 86 Wh" in text
    assert parse_budget(options.split()[4].rstrip(",")) is not None
    assert price_search(recipe, plan).answering_seconds is None
    assert price_search(recipe, planned()).seconds is None


def test_the_price_counts_trials_of_other_lengths():
    price = price_search(parse(f'name = "shop"\n{RECIPE}[search]\ntrials = 4\n'), planned(train=600))
    rule = training_rule("sft", 576, 600).epochs
    assert price.full_steps == 60 + 3 * 60 * (rule // 2 + rule + 2 * rule) / 3 / 2  # half, the same, and twice the rule's epochs
    assert price.epochs_vary


def test_trials_of_a_recipe_with_steps_are_equally_long():
    text = f'name = "shop"\n{RECIPE.replace("epochs = 2", "steps = 60")}[search]\ntrials = 4\n'
    price = price_search(parse(text), planned())
    assert (price.full_steps, price.epochs_vary) == (4 * 60, False)


def test_the_price_includes_off_task_answers():
    asked = [f'name = "shop"\n{RECIPE}[evaluation]\nregression_system = {system}\n' for system in ("false", "true")]
    assert [price_search(parse(text), planned()).answers for text in asked] == [2 * 1000, 4 * 1000]


@pytest.mark.parametrize("total", [4, 7, 60, 143])
@pytest.mark.parametrize("section", [SECTION, replace(SECTION, warmup=0.3, decay=0.5), replace(SECTION, warmup=0.0)])
def test_a_rung_is_a_run_that_continues_the_trunk(section, total):
    """The trunk and the rung have the rates of one run from the start, and every trunk continues the one before."""
    lengths = boards.rung_lengths(total)
    trunk: list[float] = []
    for length in lengths:
        before, after = boards.trunk_section(section, length, total), boards.rung_section(section, length, total)
        rates = [learning_rate(before, step, before.steps) for step in range(before.steps)]
        assert rates[: len(trunk)] == pytest.approx(trunk)
        trunk = rates
        complete = [learning_rate(after, step, after.steps) for step in range(after.steps)]
        assert complete[: before.steps] == pytest.approx(rates)
        assert complete[-1] < max(complete) or length < 10  # a decay of one step has the full rate
    assert boards.rung_steps(section, lengths)[0] == lengths[0]
    assert sum(boards.rung_steps(section, lengths)) < 2 * total


def test_pauses_and_crashes_do_not_count_toward_the_budget():
    kinds = [(0, "run.started"), (5, "step"), (6, "run.waiting"), (15, "heartbeat"), (24, "heartbeat"), (30, "run.continued"),
             (33, "heartbeat"), (100, "run.resumed"), (104, "step")]  # fmt: skip
    assert active_seconds([{"t": float(time), "type": kind} for time, kind in kinds]) == 6 + 3 + 4  # type: ignore[typeddict-item]
