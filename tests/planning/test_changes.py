"""Suggested changes come least harmful first, each with its peak, and no more than needed."""

from dataclasses import replace

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.planning.changes import MemoryChange, suggest_changes
from mlxtune.planning.plan import Planner
from mlxtune.present.plan import changes as shown
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


def test_the_longest_window_that_fits_is_suggested(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=1", "data.max_tokens=4096")
    plan = planner(read, machine, 0, rows=[700] * 60 + [900] * 4)
    peaks = {window: plan.estimate(replace(given, data=replace(given.data, max_tokens=window))).total for window in (720, 900)}
    limit = (peaks[720] + peaks[900]) // 2
    *_, change = suggest_changes(given, plan.lengths, plan.shapes, plan.estimate, limit)
    window = int(change.settings[0].removeprefix("data.max_tokens="))
    assert 720 <= window < 900  # below the quantile of 0.95, which is 900
    assert (change.disadvantage, change.truncated) == ("truncated_rows", 4)
    above = replace(given, data=replace(given.data, max_tokens=window + 1))
    assert change.peak <= limit < plan.estimate(above).total


def test_a_window_skips_rows_if_nothing_else_fits(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=1", "data.max_tokens=65536", "adapter.rank=4")
    plan = planner(read, machine, 0, rows=[400] * 60 + [30000] * 4)
    limit = plan.estimate(replace(given, data=replace(given.data, max_tokens=500))).total
    change, base = suggest_changes(given, plan.lengths, plan.shapes, plan.estimate, limit)
    window = int(change.settings[0].removeprefix("data.max_tokens="))
    assert 500 <= window < 600
    assert change.settings[1:] == ('data.too_long="skip"',)
    assert (change.disadvantage, change.truncated, change.longest_row) == ("shorter_rows", 4, window)
    assert change.peak <= limit
    assert base.disadvantage == "smaller_base"  # which would fit without skipping rows
    (fact,) = shown((change,)).facts
    assert (fact.label, fact.note) == (f'max_tokens = {window}, too_long = "skip"', "4 rows truncated or skipped")


def test_the_longest_row_that_fits_is_named_if_no_row_is_so_short(read, machine) -> None:
    given = recipe("training.grad_checkpoint=true", "training.batch_size=2", "data.max_tokens=65536")
    plan = planner(read, machine, 0, rows=[30000] * 8)
    one = replace(given.training, batch_size=1, accumulate=2)
    limit = plan.estimate(replace(given, data=replace(given.data, max_tokens=500), training=one)).total
    changes = suggest_changes(given, plan.lengths, plan.shapes, plan.estimate, limit)
    assert [change.settings for change in changes] == [("training.batch_size=1", "training.accumulate=2"), (), ()]
    assert changes[1].disadvantage == "shorter_rows"
    assert 500 <= changes[1].longest_row < 600
    assert [(fact.label, fact.value) for fact in shown(tuple(changes)).facts][1:] == [
        ("shorter rows", f"≤ {changes[1].longest_row} tokens")
    ]


def test_no_base_is_suggested_whose_weights_would_have_no_room() -> None:
    assert shown((MemoryChange((), "smaller_base", 0, True),)).facts == ()


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
