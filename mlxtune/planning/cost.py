"""What a plan costs in electricity, beside what others ask for the same tokens; and how many calls a small tuned model must serve.

Every constant stands in ``prices.toml``, with its source and the day it was ``listed`` there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from mlxtune.core.text import duration
from mlxtune.planning.plan import Plan

FLOPS = 4  # for a parameter and a token: 2 forward and 2 towards the inputs (Kaplan et al. 2020, arXiv:2001.08361); frozen weights need no gradient


@dataclass(frozen=True)
class Tariff:
    """What a kWh costs, in dollars."""

    price: float
    what: str
    source: str
    listed: str


@dataclass(frozen=True)
class Draw:
    """What a computer with ``chip`` draws."""

    chip: str
    watts: float
    what: str
    source: str
    listed: str


@dataclass(frozen=True)
class Own:
    """A machine to buy, written off over ``months``."""

    name: str
    price: float
    months: int
    what: str
    source: str
    listed: str


@dataclass(frozen=True)
class Rental:
    """A card by the hour; ``peak`` in FLOP/s."""

    name: str
    vendor: str
    price: float
    peak: float
    source: str
    listed: str


@dataclass(frozen=True)
class Renting:
    """What is assumed of a rented card: the share of its peak that training reaches, and seconds that it is paid for before."""

    utilisation: float
    setup: float
    what: str
    source: str
    listed: str


@dataclass(frozen=True)
class Hosted:
    """Fine-tuning by the million tokens, for models of up to ``largest`` parameters; 0 for a method that is not offered."""

    name: str
    vendor: str
    largest: float
    source: str
    listed: str
    sft: float = 0.0
    dpo: float = 0.0


@dataclass(frozen=True)
class Served:
    """A hosted model by the million tokens."""

    name: str
    vendor: str
    input: float
    output: float
    source: str
    listed: str


@dataclass(frozen=True)
class Prices:
    """All of ``prices.toml``."""

    electricity: Tariff
    watts: tuple[Draw, ...]
    machine: Own
    rental: tuple[Rental, ...]
    renting: Renting
    hosted: tuple[Hosted, ...]
    served: tuple[Served, ...]

    def draw(self, chip: str) -> Draw | None:
        """What the maker says that a computer with ``chip`` draws."""
        return next((one for one in self.watts if one.chip == chip), None)


@dataclass(frozen=True)
class Offer:
    """Somebody's price for the plan's tokens, in dollars; ``seconds`` that are paid for, 0 where tokens are."""

    name: str
    vendor: str
    money: float
    seconds: float
    source: str
    listed: str


@dataclass(frozen=True)
class BreakEven:
    """From how many ``calls`` a month on an own machine is the cheaper one; ``None`` where its electricity alone costs more.

    ``call`` is what the hosted model takes for one, in dollars.
    """

    name: str
    vendor: str
    call: float
    calls: int | None
    source: str
    listed: str


@dataclass(frozen=True)
class Bill:
    """``money`` is for the electricity of the run here, in dollars, and ``call`` for that of one answer; ``None`` where time or watts
    are not known. ``drawn`` says where the watts are from."""

    watts: float
    drawn: str
    tariff: float
    kilowatt_hours: float | None
    money: float | None
    call: float | None
    rented: tuple[Offer, ...]
    hosted: tuple[Offer, ...]
    machine: Own
    break_even: tuple[BreakEven, ...]


@cache
def prices() -> Prices:
    """The prices that come with mlxtune."""
    return parse(files("mlxtune.planning").joinpath("prices.toml").read_text(encoding="utf-8"))


def parse(text: str) -> Prices:
    """The prices in the text of such a file; days become text, as in 2026-11-09. Raises ``TypeError`` for a key it should not have."""
    data = {name: _listed(value) for name, value in tomllib.loads(text).items()}
    many: dict[str, Any] = {"watts": Draw, "rental": Rental, "hosted": Hosted, "served": Served}
    one: dict[str, Any] = {"electricity": Tariff, "machine": Own, "renting": Renting}
    return Prices(
        **{name: tuple(kind(**entry) for entry in data[name]) for name, kind in many.items()},
        **{name: kind(**data[name]) for name, kind in one.items()},
    )


def _listed(value: Any) -> Any:
    """``value`` with its days as text."""
    if isinstance(value, list):
        return [_listed(entry) for entry in value]
    return value | {"listed": value["listed"].isoformat()}


def bill(
    plan: Plan, method: str, *, chip: str = "", tariff: float | None = None, answering: float | None = None, known: Prices | None = None
) -> Bill:  # fmt: skip
    """What ``plan``, a run of ``method``, costs here and elsewhere.

    Watts are those of the plan, which the user measured or says, else what the maker of a computer with ``chip`` says; ``tariff`` is in
    dollars for a kWh, ``answering`` the seconds that one answer takes here, where that was measured.
    """
    known = known or prices()
    watts, told = _drawn(plan.cost.watts, chip, known)
    kwh = known.electricity.price if tariff is None else tariff
    energy = plan.cost.seconds * watts / 3.6e6 if plan.cost.seconds is not None and watts else None
    call = answering * watts / 3.6e6 * kwh if answering is not None and watts else None
    return Bill(
        watts, told, kwh, energy, None if energy is None else energy * kwh, call, tuple(_rented(plan, known)),
        tuple(_hosted(plan, method, known)), known.machine, tuple(_even(plan, call or 0.0, known.machine, known.served)),
    )  # fmt: skip


def lines(plan: Plan, costs: Bill) -> list[tuple[str, str, str]]:
    """The bill in words: a label, what it comes to, and how that is known; empty where it is not known."""
    rate = f"at {costs.watts:,.0f} W, {costs.drawn}; {costs.tariff:g} $ a kWh"
    if costs.kilowatt_hours is not None and costs.money is not None:
        told = [("here", f"{_energy(costs.kilowatt_hours)}, {_money(costs.money)}", rate)]
    else:
        told = [("here", "", "unknown until --probe" if plan.cost.seconds is None else "unknown without --watts")]
    for label, offers in (("rented", costs.rented), ("hosted", costs.hosted)):
        for one in offers[:1]:
            what = (
                f"{one.name} for {duration(one.seconds)}, set-up included" if one.seconds else f"{one.name}, {plan.read:,} tokens"
            )
            told.append((label, _money(one.money), f"{what}; {one.vendor}, {one.listed}"))
    own = costs.machine
    for even in costs.break_even:
        calls = f"{even.calls:,} calls a month" if even.calls else "never"
        note = f"for {own.name}, {own.price:,.0f} $ over {own.months} months, against {even.name}, {even.listed}"
        told.append(("pays from", calls, note))
    return told


def _energy(kilowatt_hours: float) -> str:
    return f"{kilowatt_hours:.1f} kWh" if kilowatt_hours >= 0.1 else f"{1000 * kilowatt_hours:.1f} Wh"


def _money(dollars: float) -> str:
    return f"{dollars:,.2f} $" if dollars >= 0.01 else "under a cent"


def _drawn(watts: float, chip: str, known: Prices) -> tuple[float, str]:
    if watts:
        return watts, "as you say"
    found = known.draw(chip)
    return (found.watts, f"{found.what}, as Apple says") if found else (0.0, "")


def _rented(plan: Plan, known: Prices) -> list[Offer]:
    how, offers = known.renting, []
    for one in known.rental:
        seconds = how.setup + FLOPS * plan.parameters * plan.computed / (one.peak * how.utilisation)
        offers.append(Offer(one.name, one.vendor, seconds / 3600 * one.price, seconds, one.source, one.listed))
    return sorted(offers, key=lambda offer: offer.money)


def _hosted(plan: Plan, method: str, known: Prices) -> list[Offer]:
    offers = []
    for one in known.hosted:
        price = {"sft": one.sft, "dpo": one.dpo}.get(method, 0.0)
        if price and plan.parameters <= one.largest:
            offers.append(Offer(one.name, one.vendor, plan.read / 1e6 * price, 0.0, one.source, one.listed))
    return sorted(offers, key=lambda offer: offer.money)


def _even(plan: Plan, own: float, machine: Own, served: Sequence[Served]) -> list[BreakEven]:
    found = []
    for one in served:
        call = (plan.asked * one.input + plan.answered * one.output) / 1e6
        month = machine.price / machine.months
        calls = round(month / (call - own)) if call > own else None
        found.append(BreakEven(one.name, one.vendor, call, calls, one.source, one.listed))
    return found
