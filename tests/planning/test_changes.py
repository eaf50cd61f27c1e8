"""Suggested changes come least harmful first, each with its peak, and no more than needed."""

from dataclasses import replace

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.planning.changes import suggest_changes
from mlxtune.planning.plan import Planner
from mlxtune.recipe import Recipe

from .conftest import lengths, recipe

ROWS = [400] * 60 + [900] * 4


def planner(read, machine, limit: int, rows=ROWS, **dimensions) -> Planner:
    return Planner(replace(machine, limit=limit), read(**dimensions), lengths(*rows))


def suggestions(plan: Planner, given: Recipe):
    return suggest_changes(given, plan.lengths, plan.shapes, plan.estimate, plan.machine.limit)


def test_suggestions_end_with_the_first_that_fits(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8")
    unchanged = planner(read, machine, 10**15).estimate(given)
    changes = suggestions(planner(read, machine, unchanged.total - 1), given)
    assert [change.settings for change in changes] == [("training.grad_checkpoint=true",)]
    assert changes[0].fits


def test_every_suggestion_lowers_the_peak(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64")
    changes = suggestions(planner(read, machine, 1000, layers=16, kind="BF16"), given)
    named = [change.settings[0].split("=")[0] for change in changes if change.settings]
    order = ["training.grad_checkpoint", "training.batch_size", "data.max_tokens", "adapter.layers", "adapter.rank"]
    assert named == [name for name in order if name in named]
    assert named[:2] == order[:2]
    peaks = [change.peak for change in changes if change.settings]
    assert peaks == sorted(peaks, reverse=True)
    assert changes[-1].settings == ()
    assert changes[-1].disadvantage == "smaller_base"
    assert 0 <= changes[-1].largest_weights < 1000


def test_a_smaller_batch_keeps_the_tokens_of_a_step(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=8", "training.accumulate=2")
    changes = suggestions(planner(read, machine, 1000), given)
    assert changes[0].settings == ("training.batch_size=1", "training.accumulate=16")


def test_a_shorter_window_counts_truncated_rows_and_leaves_trained_tokens(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=1")
    plan = planner(read, machine, 1000, rows=[400] * 60 + [500] * 4)
    window = next(change for change in suggestions(plan, given) if change.settings and change.settings[0].startswith("data."))
    assert window.settings == ("data.max_tokens=400",)
    assert (window.disadvantage, window.truncated) == ("truncated_rows", 4)


def test_quantization_is_suggested_for_unquantized_weights_on_a_gpu_only(read, machine, metal) -> None:
    given = recipe("training.batch_size=1")
    for which, expected in ((metal, True), (machine, False)):
        changes = suggestions(planner(read, which, 1000, kind="BF16"), given)
        assert any(change.settings == ("model.quantize=4",) for change in changes) is expected


def test_settings_are_valid_overrides(read, machine) -> None:
    given = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64")
    settings = [setting for change in suggestions(planner(read, machine, 1000), given) for setting in change.settings]
    try:
        again = recipe("training.grad_checkpoint=false", "training.batch_size=8", "adapter.rank=64", *settings)
    except RecipeError as error:
        pytest.fail(error.message)
    plan = planner(read, machine, 1000)
    assert plan.estimate(again).total == min(setting.peak for setting in suggestions(plan, given) if setting.peak)
