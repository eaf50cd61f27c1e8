"""Electricity, others' prices and the break-even, each against arithmetic of its own; and a source behind every constant."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.planning.cost import bill, lines, parse, prices
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Cost, Plan, Planner
from mlxtune.planning.shapes import Shapes
from mlxtune.planning.workload import Length, Lengths, workload
from mlxtune.recipe import TrainingSection

from .conftest import lengths, recipe

TEXT = files("mlxtune.planning").joinpath("prices.toml").read_text(encoding="utf-8")
HOUR = 3600.0


@pytest.fixture
def plan(read: Callable[..., Shapes], machine: Machine) -> Plan:
    """Forty rows, three epochs, in an hour at 60 W."""
    rows = lengths(*[40] * 40)
    shares: Any = SimpleNamespace(train=rows.train, valid=rows.valid, test=())
    made = Planner(machine, read(), rows).plan(recipe("training.epochs=3"), shares)
    return replace(made, cost=Cost(HOUR, "probe", 60.0))


def test_every_constant_has_a_source_and_a_day() -> None:
    entries = [entry for value in tomllib.loads(TEXT).values() for entry in (value if isinstance(value, list) else [value])]
    assert len(entries) >= 12
    for entry in entries:
        assert "https://" in entry["source"], entry
        assert datetime.date(2025, 1, 1) < entry["listed"] < datetime.date(2027, 1, 1), entry
        assert all(value > 0 for value in entry.values() if isinstance(value, int | float))
    assert "check again" in TEXT
    assert all(len(one.listed) == 10 for one in prices().rental)


def test_a_key_that_no_price_has_is_refused() -> None:
    with pytest.raises(TypeError, match="cost"):
        parse(TEXT.replace("price = 0.1802", "cost = 0.1802"))


def test_electricity_is_power_times_time_times_tariff(plan: Plan) -> None:
    costs = bill(plan, "sft", tariff=0.25)
    assert costs.kilowatt_hours == pytest.approx(0.060)
    assert costs.money == pytest.approx(0.015)
    assert bill(plan, "sft").money == pytest.approx(0.060 * prices().electricity.price)
    assert (costs.watts, costs.drawn) == (60.0, "as you say")


def test_watts_that_nobody_says_are_the_makers_where_the_chip_is_known(plan: Plan) -> None:
    silent = replace(plan, cost=Cost(HOUR, "probe", 0.0))
    costs = bill(silent, "sft", chip="Apple M4 Max", tariff=1.0)
    assert costs.watts == 145
    assert costs.money == pytest.approx(0.145)
    assert "as Apple says" in costs.drawn
    unknown = bill(silent, "sft", chip="a chip")
    assert (unknown.watts, unknown.kilowatt_hours, unknown.money) == (0.0, None, None)
    assert ("here", "", "unknown without --watts") in lines(silent, unknown)


def test_a_time_that_nothing_measured_leaves_the_electricity_open_and_the_others_prices_known(plan: Plan) -> None:
    unknown = replace(plan, cost=Cost(None, "", 60.0))
    costs = bill(unknown, "sft")
    assert (costs.kilowatt_hours, costs.money) == (None, None)
    assert costs.rented
    assert ("here", "", "unknown until --probe") in lines(unknown, costs)


def test_a_rented_card_is_paid_for_its_setup_and_for_the_work_at_a_share_of_its_peak(plan: Plan) -> None:
    known = prices()
    for offer in bill(plan, "sft").rented:
        card = next(one for one in known.rental if (one.name, one.vendor) == (offer.name, offer.vendor))
        work = 4 * plan.parameters * plan.computed
        seconds = 600 + work / (0.3 * 312e12)
        assert offer.seconds == pytest.approx(seconds)
        assert offer.money == pytest.approx(seconds / 3600 * card.price)
    large = replace(plan, parameters=8_000_000_000, computed=100_000_000)
    assert min(one.seconds for one in bill(large, "sft").rented) == pytest.approx(600 + 3.2e18 / 93.6e12)


def test_hosted_training_is_paid_by_the_token_and_only_for_what_is_offered(plan: Plan) -> None:
    assert plan.read == 3 * 40 * 40  # epochs, rows, tokens of a row
    offers = {one.vendor: one.money for one in bill(plan, "sft").hosted}
    assert offers == pytest.approx({"Together AI": 4800 * 0.48e-6, "Fireworks AI": 4800 * 0.50e-6})
    assert list(offers) == ["Together AI", "Fireworks AI"]  # the cheaper one first
    assert {one.vendor: one.money for one in bill(plan, "dpo").hosted} == pytest.approx({"Fireworks AI": 4800 * 1e-6})
    assert bill(plan, "orpo").hosted == ()
    assert bill(replace(plan, parameters=70_000_000_000), "sft").hosted == ()


def test_it_pays_from_where_the_calls_saved_buy_the_machine(plan: Plan) -> None:
    given = replace(plan, asked=1000.0, answered=200.0)
    costs = bill(given, "sft", tariff=0.30, answering=2.0)
    own = 2.0 * 60 / 3.6e6 * 0.30
    assert costs.call == pytest.approx(own)
    known = {one.name: one for one in prices().served}
    assert {one.name for one in costs.break_even} == set(known)
    for even in costs.break_even:
        call = (1000 * known[even.name].input + 200 * known[even.name].output) / 1e6
        assert even.call == pytest.approx(call)
        assert even.calls == round(prices().machine.price / 36 / (call - own))


def test_it_never_pays_where_the_electricity_of_a_call_costs_more_than_the_call(plan: Plan) -> None:
    tiny = replace(plan, asked=1.0, answered=1.0)
    costs = bill(tiny, "sft", tariff=0.30, answering=100.0)
    assert {one.calls for one in costs.break_even} == {None}
    assert any(label == "pays from" and text == "never" for label, text, _ in lines(tiny, costs))


def test_a_bill_in_words_has_the_cheapest_of_each_kind_and_the_day(plan: Plan) -> None:
    costs = bill(plan, "sft", tariff=0.25)
    told = lines(plan, costs)
    assert [label for label, _, _ in told] == ["here", "rented", "hosted", *["pays from"] * len(costs.break_even)]
    assert told[0][1].startswith("60.0 Wh, 0.01")
    assert costs.rented[0].vendor in told[1][2]
    assert costs.rented[0].listed in told[1][2]
    assert "4,800 tokens" in told[2][2]


def test_tokens_read_are_those_of_rows_cut_at_the_window_and_of_both_sides_of_a_pair() -> None:
    section = TrainingSection(epochs=2, batch_size=3)
    rows = lengths(30, 50, 20, 10)
    assert workload(rows, section, 40).read == 2 * (30 + 40 + 20 + 10)
    pair = Length(25, 10, 15, (15, 10, 4))
    pairs = Lengths((pair,) * 4, (pair,), 0, True)
    assert workload(pairs, section, 100).read == 2 * 4 * ((15 + 10) + (15 + 4))


def test_a_call_is_a_rows_prompt_and_its_wanted_answer() -> None:
    assert lengths(40, 80).call == ((30 + 60 + 30 + 60) / 4, (10 + 20 + 10 + 20) / 4)  # both validate as well
    pair = Length(25, 10, 15, (15, 10, 4))
    assert Lengths((pair,), (), 0, True).call == (15, 10)
