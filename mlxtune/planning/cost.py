"""The cost of a plan: electricity here, rented and hosted alternatives, and the break-even point of a small tuned model.

Every constant is in ``prices.toml``, with its source and the date on which it was ``listed``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mlxtune.core.json_fields import from_json
from mlxtune.planning.plan import Plan

FLOPS = 4  # per parameter and token: 2 forward and 2 for the inputs' gradients (arXiv:2001.08361); frozen weights have none


@dataclass(frozen=True)
class PriceEntry:
    source: str
    listed: str


@dataclass(frozen=True)
class VendorPrice(PriceEntry):
    """The price of what ``vendor`` offers under ``name``."""

    name: str
    vendor: str


@dataclass(frozen=True)
class Tariff(PriceEntry):
    """The price of a kWh, in dollars."""

    price: float
    what: str


@dataclass(frozen=True)
class PowerDraw(PriceEntry):
    chip: str
    watts: float
    what: str


@dataclass(frozen=True)
class PurchasedMachine(PriceEntry):
    """A machine to buy, depreciated over ``months``."""

    name: str
    price: float
    months: int
    what: str


@dataclass(frozen=True)
class RentedGpu(VendorPrice):
    """A GPU rented by the hour; ``peak`` in FLOP/s."""

    price: float
    peak: float


@dataclass(frozen=True)
class RentalAssumptions(PriceEntry):
    """Assumptions about a rented GPU: the fraction of its peak that training reaches, and the paid setup time in seconds."""

    utilization: float
    setup: float
    what: str


@dataclass(frozen=True)
class HostedTraining(VendorPrice):
    """Fine-tuning priced per million tokens, for models of up to ``largest`` parameters; 0 if a method is not offered."""

    largest: float
    sft: float = 0.0
    dpo: float = 0.0


@dataclass(frozen=True)
class HostedModel(VendorPrice):
    """A hosted model priced per million tokens."""

    input: float
    output: float


@dataclass(frozen=True)
class Prices:
    """The contents of ``prices.toml``."""

    electricity: Tariff
    watts: tuple[PowerDraw, ...]
    machine: PurchasedMachine
    rental: tuple[RentedGpu, ...]
    renting: RentalAssumptions
    hosted: tuple[HostedTraining, ...]
    served: tuple[HostedModel, ...]


@dataclass(frozen=True)
class CloudOffer(VendorPrice):
    """A vendor's price for the plan, in dollars. ``seconds`` is the paid time, or 0 if priced by tokens."""

    money: float
    seconds: float


@dataclass(frozen=True)
class BreakEven(VendorPrice):
    """The ``calls`` per month above which owning a machine is cheaper, if ever, and a hosted ``call``'s price in dollars."""

    call: float
    calls: int | None


@dataclass(frozen=True)
class Bill:
    """The cost of a plan here and elsewhere, in dollars. ``None`` if the time or the watts are unknown."""

    watts: float
    rated: str  # what the vendor's figure of the watts is about; empty if the user gave it
    electricity_price: float  # per kWh
    kilowatt_hours: float | None
    money: float | None  # for the electricity of the run
    call: float | None  # for that of one answer
    rented: tuple[CloudOffer, ...]
    hosted: tuple[CloudOffer, ...]
    machine: PurchasedMachine
    break_even: tuple[BreakEven, ...]


@cache
def prices() -> Prices:
    return parse(files("mlxtune.planning").joinpath("prices.toml").read_text(encoding="utf-8"))


def parse(text: str) -> Prices:
    """Parse a price list. Raises ``KeyError`` for an unknown key, and ``TypeError`` for a missing one."""
    return from_json(Prices, tomllib.loads(text))


def make_bill(
    plan: Plan, method: str, *, chip: str = "", electricity_price: float | None = None, answering: float | None = None
) -> Bill:
    """Compute the cost of ``plan``, a run with ``method``, here and elsewhere.

    Watts are the plan's, if the user sets them, or else the vendor's for ``chip``. ``electricity_price`` is in dollars per kWh;
    ``answering`` is the measured time of one answer here, in seconds.
    """
    known = prices()
    watts, rated = typical_watts(chip, plan.cost.watts)
    per_kwh = known.electricity.price if electricity_price is None else electricity_price
    energy = plan.cost.seconds * watts / 3.6e6 if plan.cost.seconds is not None and watts else None
    call = answering * watts / 3.6e6 * per_kwh if answering is not None and watts else None
    offers = []
    for gpu in known.rental:
        seconds = known.renting.setup + FLOPS * plan.parameters * plan.computed / (gpu.peak * known.renting.utilization)
        offers.append(_offer(gpu, seconds / 3600 * gpu.price, seconds))
    return Bill(
        watts=watts, rated=rated, electricity_price=per_kwh, kilowatt_hours=energy,
        money=None if energy is None else energy * per_kwh, call=call, rented=tuple(sorted(offers, key=lambda offer: offer.money)),
        hosted=tuple(_hosted(plan, method, known)), machine=known.machine,
        break_even=tuple(_break_even(plan, call or 0.0, known.machine, known.served)),
    )  # fmt: skip


def typical_watts(chip: str, given: float = 0.0) -> tuple[float, str]:
    """Return the power that a machine draws under load, 0 if unknown, and what the vendor's figure is about; empty if it was ``given``."""
    if given:
        return given, ""
    draw = next((draw for draw in prices().watts if draw.chip == chip), None)
    return (draw.watts, draw.what) if draw else (0.0, "")


def _offer(entry: RentedGpu | HostedTraining, money: float, seconds: float) -> CloudOffer:
    return CloudOffer(name=entry.name, vendor=entry.vendor, money=money, seconds=seconds, source=entry.source, listed=entry.listed)


def _hosted(plan: Plan, method: str, known: Prices) -> list[CloudOffer]:
    offers = []
    for host in known.hosted:
        price = {"sft": host.sft, "dpo": host.dpo}.get(method, 0.0)
        if price and plan.parameters <= host.largest:
            offers.append(_offer(host, plan.read / 1e6 * price, 0.0))
    return sorted(offers, key=lambda offer: offer.money)


def _break_even(plan: Plan, own_call: float, machine: PurchasedMachine, hosted: Sequence[HostedModel]) -> list[BreakEven]:
    per_month = machine.price / machine.months
    points = []
    for model in hosted:
        call = (plan.prompt_tokens * model.input + plan.answer_tokens * model.output) / 1e6
        calls = round(per_month / (call - own_call)) if call > own_call else None
        points.append(BreakEven(model.source, model.listed, model.name, model.vendor, call, calls))
    return points
