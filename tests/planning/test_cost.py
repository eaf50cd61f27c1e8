"""Electricity, offers and break-even compared with independent arithmetic, and a source for every price."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.planning.calibration import StepCalibration
from mlxtune.planning.cost import make_bill, parse, prices
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Cost, Plan, Planner, _cost
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, RowLength, workload
from mlxtune.present.blocks import Fact
from mlxtune.present.plan import cost_facts
from mlxtune.recipe import TrainingSection

from .conftest import lengths, recipe

TEXT = files("mlxtune.planning").joinpath("prices.toml").read_text(encoding="utf-8")
HOUR = 3600.0


@pytest.fixture
def plan(read: Callable[..., ModelShapes], machine: Machine) -> Plan:
    """Forty rows, three epochs, in an hour at 60 W."""
    rows = lengths(*[40] * 40)
    splits: Any = SimpleNamespace(train=rows.train, valid=rows.valid, test=(), evaluated=(), reserved=())
    plan_without_time = Planner(machine, read(), rows).plan(recipe("training.epochs=3"), splits)
    return replace(plan_without_time, cost=Cost(HOUR, "probe", 60.0))


def test_every_price_has_a_source_and_a_date() -> None:
    entries = [entry for value in tomllib.loads(TEXT).values() for entry in (value if isinstance(value, list) else [value])]
    assert len(entries) >= 12
    for entry in entries:
        assert "https://" in entry["source"], entry
        assert "2025-01-01" < entry["listed"] < "2027-01-01", entry
        assert all(value > 0 for value in entry.values() if isinstance(value, int | float))
    assert "check again" in TEXT
    assert all(len(offer.listed) == 10 for offer in prices().rental)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(KeyError, match="cost"):
        parse(TEXT.replace("price = 0.1802", "cost = 0.1802"))


def test_electricity_is_power_times_time_times_price(plan: Plan) -> None:
    costs = make_bill(plan, "sft", electricity_price=0.25)
    assert costs.kilowatt_hours == pytest.approx(0.060)
    assert costs.money == pytest.approx(0.015)
    assert make_bill(plan, "sft").money == pytest.approx(0.060 * prices().electricity.price)
    assert (costs.watts, costs.rated) == (60.0, "")


def test_default_watts_are_the_vendors_for_known_chips(plan: Plan) -> None:
    without_watts = replace(plan, cost=Cost(HOUR, "probe", 0.0))
    costs = make_bill(without_watts, "sft", chip="Apple M4 Max", electricity_price=1.0)
    assert costs.watts == 145
    assert costs.money == pytest.approx(0.145)
    assert costs.rated == "maximum of the whole computer: Mac Studio (2025)"
    unknown = make_bill(without_watts, "sft", chip="a chip")
    assert (unknown.watts, unknown.kilowatt_hours, unknown.money) == (0.0, None, None)
    assert Fact("here", "", "unknown without mlxtune plan --watts") in cost_facts(without_watts, unknown).facts


def test_without_a_measured_time_electricity_is_unknown_but_offers_are_priced(plan: Plan) -> None:
    unknown = replace(plan, cost=Cost(None, "", 60.0))
    costs = make_bill(unknown, "sft")
    assert (costs.kilowatt_hours, costs.money) == (None, None)
    assert costs.rented
    assert Fact("here", "", "unknown without a probe") in cost_facts(unknown, costs).facts


def test_a_rented_gpu_is_priced_by_setup_and_compute_time(plan: Plan) -> None:
    known = prices()
    for offer in make_bill(plan, "sft").rented:
        card = next(card for card in known.rental if (card.name, card.vendor) == (offer.name, offer.vendor))
        work = 4 * plan.parameters * plan.computed
        seconds = 600 + work / (0.3 * 312e12)
        assert offer.seconds == pytest.approx(seconds)
        assert offer.money == pytest.approx(seconds / 3600 * card.price)
    large = replace(plan, parameters=8_000_000_000, computed=100_000_000)
    assert min(price.seconds for price in make_bill(large, "sft").rented) == pytest.approx(600 + 3.2e18 / 93.6e12)


def test_hosted_training_is_priced_per_token_for_offered_methods(plan: Plan) -> None:
    assert plan.read == 3 * 40 * 40  # epochs, rows, tokens per row
    offers = {offer.vendor: offer.money for offer in make_bill(plan, "sft").hosted}
    assert offers == pytest.approx({"Together AI": 4800 * 0.48e-6, "Fireworks AI": 4800 * 0.50e-6})
    assert list(offers) == ["Together AI", "Fireworks AI"]  # the cheaper one first
    assert {offer.vendor: offer.money for offer in make_bill(plan, "dpo").hosted} == pytest.approx({"Fireworks AI": 4800 * 1e-6})
    assert make_bill(plan, "orpo").hosted == ()
    assert make_bill(replace(plan, parameters=70_000_000_000), "sft").hosted == ()


def test_break_even_is_where_saved_calls_pay_for_the_machine(plan: Plan) -> None:
    given = replace(plan, prompt_tokens=1000.0, answer_tokens=200.0)
    costs = make_bill(given, "sft", electricity_price=0.30, answering=2.0)
    own = 2.0 * 60 / 3.6e6 * 0.30
    assert costs.call == pytest.approx(own)
    known = {offer.name: offer for offer in prices().served}
    assert {offer.name for offer in costs.break_even} == set(known)
    for case in costs.break_even:
        call = (1000 * known[case.name].input + 200 * known[case.name].output) / 1e6
        assert case.call == pytest.approx(call)
        assert case.calls == round(prices().machine.price / 36 / (call - own))


def test_there_is_no_break_even_if_electricity_costs_more_than_the_call(plan: Plan) -> None:
    tiny = replace(plan, prompt_tokens=1.0, answer_tokens=1.0)
    costs = make_bill(tiny, "sft", electricity_price=0.30, answering=100.0)
    assert {offer.calls for offer in costs.break_even} == {None}
    assert sum("never, compared with " in fact.value for fact in cost_facts(tiny, costs).facts) == len(costs.break_even)


def test_the_bill_lists_the_cheapest_offers_with_dates(plan: Plan) -> None:
    costs = make_bill(plan, "sft", electricity_price=0.25)
    here, rented, hosted, *others = cost_facts(plan, costs).facts
    assert [fact.label for fact in (here, rented, hosted)] == ["here", "rented", "hosted"]
    assert [fact.label for fact in others] == ["break-even"] * len(costs.break_even)
    assert here.value == "60.0 Wh, $0.01"
    assert f"{costs.rented[0].vendor}, {costs.rented[0].listed}" in rented.note
    assert "4,800 tokens" in hosted.note


def test_tokens_read_counts_truncated_rows_and_both_sides_of_a_pair() -> None:
    section = TrainingSection(epochs=2, batch_size=3)
    rows = lengths(30, 50, 20, 10)
    assert workload(rows, section, 40).tokens_read == 2 * (30 + 40 + 20 + 10)
    pair = RowLength(25, 10, 15, (15, 10, 4))
    pairs = DatasetLengths((pair,) * 4, (pair,), 0, True)
    assert workload(pairs, section, 100).tokens_read == 2 * 4 * ((15 + 10) + (15 + 4))


def test_mean_prompt_and_answer_of_rows_and_pairs() -> None:
    assert lengths(40, 80).mean_prompt_and_answer == (
        (30 + 60 + 30 + 60) / 4,
        (10 + 20 + 10 + 20) / 4,
    )  # both are also used for validation
    pair = RowLength(25, 10, 15, (15, 10, 4))
    assert DatasetLengths((pair,), (), 0, True).mean_prompt_and_answer == (15, 10)


def test_a_short_run_needs_the_reference_for_fewer_pairs() -> None:
    pair = RowLength(25, 10, 15, (15, 10, 4))
    speed = StepCalibration(1.0, 0.01, 0.02, "probe")
    costs = {}
    for steps in (2, 0):
        given = recipe("method.kind=dpo", "training.batch_size=2", "training.epochs=2", f"training.steps={steps}")
        work = workload(DatasetLengths((pair,) * 20, (), 0, False), given.training, 100)
        costs[steps] = _cost(given, work, speed, 0.0, cached=False, checkpointed=False)
    assert costs[2].reference_seconds == pytest.approx(costs[0].reference_seconds * 2 / 10)  # 4 of 20 pairs
    assert costs[0].long_parts == {"reference": pytest.approx(24)}
    every = replace(given, method=replace(given.method, pairs="wrong"), training=replace(given.training, steps=2))
    work = workload(DatasetLengths((pair,) * 20, (), 0, False), every.training, 100)
    cost = _cost(every, work, speed, 0.0, cached=False, checkpointed=False)
    assert cost.reference_seconds == pytest.approx(costs[0].reference_seconds)


def test_the_distance_from_the_reference_is_measured_in_every_validation() -> None:
    pair, speed = RowLength(25, 10, 15, (15, 10, 4)), StepCalibration(1.0, 0.01, 0.0, "probe")
    given = recipe("method.kind=dpo", "training.steps=4", "training.batch_size=2")
    work = workload(DatasetLengths((pair,) * 20, (pair,) * 20, 0, False), given.training, 100)
    assert work.validation_positions == 20 * sum(work.batches[0].sides)
    assert work.kl_positions == 16 * sum(work.batches[0].sides)
    cost = _cost(given, work, speed, 0.0, cached=False, checkpointed=False)
    assert cost.validation_seconds == pytest.approx(2 * (work.validation_positions + work.kl_positions) * 0.005)


def test_a_forward_pass_takes_half_of_a_step_or_a_third_if_the_step_repeats_it() -> None:
    row, speed = RowLength(40, 10, 30), StepCalibration(1.0, 0.06, 0.0, "probe")
    given = recipe("training.steps=4")
    work = workload(DatasetLengths((row,) * 20, (row,) * 3, 0, True), given.training, 100)
    for checkpointed, seconds in ((False, 0.03), (True, 0.02)):
        cost = _cost(given, work, speed, 0.0, cached=False, checkpointed=checkpointed)
        validations = 2 * work.validation_positions
        assert cost.validation_seconds == pytest.approx(validations * seconds)
        assert cost.seconds == pytest.approx(work.computed * 0.06 + validations * seconds)
