"""What to change: the least harmful first, each with its peak, and no further than needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.planning.changes import changes
from mlxtune.planning.plan import Planner
from mlxtune.recipe import Recipe

from .conftest import lengths, recipe

ROWS = [400] * 60 + [900] * 4


def planner(read, machine, limit: int, rows=ROWS, **dimensions) -> Planner:
    return Planner(replace(machine, limit=limit), read(**dimensions), lengths(*rows))


def asked(plan: Planner, given: Recipe):
    return changes(given, plan.lengths, plan.shapes, plan.estimate, plan.machine.limit)


def test_the_first_that_fits_is_the_last_that_is_named(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8")
    whole = planner(read, machine, 10**15).estimate(given)
    found = asked(planner(read, machine, whole.total - 1), given)
    assert [one.settings for one in found] == [("training.grad_checkpoint=true",)]
    assert found[0].fits


def test_harm_rises_and_every_peak_is_lower_than_the_one_before(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64")
    found = asked(planner(read, machine, 1000, layers=16, kind="BF16"), given)
    named = [one.settings[0].split("=")[0] for one in found if one.settings]
    order = ["training.grad_checkpoint", "training.batch_size", "data.max_tokens", "adapter.layers", "adapter.rank"]
    assert named == [name for name in order if name in named]
    assert named[:2] == order[:2]
    peaks = [one.peak for one in found if one.settings]
    assert peaks == sorted(peaks, reverse=True)
    assert found[-1].settings == ()
    assert found[-1].cost.startswith("a smaller base")


def test_a_smaller_batch_keeps_the_tokens_of_a_step(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=8", "training.accumulate=2")
    found = asked(planner(read, machine, 1000), given)
    assert found[0].settings == ("training.batch_size=1", "training.accumulate=16")


def test_a_shorter_window_says_how_many_rows_it_cuts_and_leaves_each_something_to_train(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=1")
    plan = planner(read, machine, 1000, rows=[400] * 60 + [500] * 4)
    window = next(one for one in asked(plan, given) if one.settings and one.settings[0].startswith("data."))
    assert window.settings == ("data.max_tokens=400",)
    assert window.cost == "4 rows of 66 cut at their end"


def test_quantising_is_offered_for_unquantised_weights_on_a_gpu_only(read, machine, metal) -> None:
    given = recipe("training.batch_size=1")
    for which, expected in ((metal, True), (machine, False)):
        found = asked(planner(read, which, 1000, kind="BF16"), given)
        assert any(one.settings == ("model.quantize=4",) for one in found) is expected


def test_a_change_is_what_set_takes(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64")
    settings = [one for change in asked(planner(read, machine, 1000), given) for one in change.settings]
    try:
        again = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64", *settings)
    except RecipeError as error:
        pytest.fail(error.message)
    plan = planner(read, machine, 1000)
    assert plan.estimate(again).total == min(one.peak for one in asked(plan, given) if one.peak)
