"""Describe a plan: whether a run fits, its memory, its work, and its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlxtune.core.text import duration, one_line, plural, size
from mlxtune.planning.changes import MemoryChange
from mlxtune.planning.cost import Bill, CloudOffer
from mlxtune.planning.machine import PowerState
from mlxtune.planning.plan import Cost, LongPart, Plan
from mlxtune.present.blocks import ActionBlock, Bar, Bars, Document, Fact, Facts, Heading, Mark, Style, Text, text
from mlxtune.present.labels import detectable_gain_fact, free_facts, level_text, outcome_mark, power_problems, word
from mlxtune.present.search import price_text
from mlxtune.present.words import WORDS
from mlxtune.recipe.edit import toml_literal

if TYPE_CHECKING:
    from mlxtune.training.search.budget import SearchPrice

PROBE = ActionBlock("plan.probe", "measure it:", "--probe")
_LONG_PARTS: dict[LongPart, str] = {"validations": "validations", "reference": "reference model"}


def plan_document(
    plan: Plan, bill: Bill, power: PowerState, *, check_note: str = "", off_task: Fact | None = None,
    search: SearchPrice | None = None,
) -> Document:  # fmt: skip
    """Describe a plan. ``check_note`` says why the rows should be checked first, if they should."""
    suggested = changes(plan.changes)
    return (
        Heading("Plan", WORDS.basis[plan.basis]),
        verdict(plan),
        *((Heading("Fits with", "least harmful first, each on top of those above"), suggested) if suggested.facts else ()),
        Heading("Memory", f"{size(plan.memory)} of {size(plan.limit)}"),
        memory_bars(plan),
        memory_facts(plan),
        Heading("Run"),
        run_facts(plan, power, check_note, off_task, search),
        Heading("Cost", "list prices as of the dates shown"),
        cost_facts(plan, bill),
    )


def verdict(plan: Plan) -> Text:
    return text(verdict_sentence(plan), "bold", outcome_mark(plan.outcome))


def verdict_sentence(plan: Plan) -> str:
    need = f"{size(plan.memory)} needed, {size(plan.limit)} available"
    if plan.outcome == "refuse":
        fixes = [change for change in plan.changes if change.settings]
        if not fixes:
            return f"This does not fit: {need}."
        subject = f"{' and '.join(fixes[0].settings)} reduces" if len(fixes) == 1 else f"{len(fixes)} changes reduce"
        return f"This does not fit: {need}. {subject} it to {size(fixes[-1].peak)}."
    if plan.outcome == "warn":
        smaller_batch = "" if plan.estimate.before else ", or make the batch smaller"
        return f"This is tight: {need}. Close other apps{smaller_batch}."
    return f"This fits: {need}."


def changes(suggested: tuple[MemoryChange, ...]) -> Facts:
    """Describe the changes that would make a recipe fit. The first one is an action in the app."""
    described = []
    for index, change in enumerate(suggested):
        harm = "truncated or skipped" if change.longest_row else "truncated"
        note = WORDS.disadvantages.get(change.disadvantage, f"{plural(change.truncated, 'row')} {harm}")
        if not change.settings:
            if change.longest_row:
                described.append(Fact("shorter rows", f"≤ {change.longest_row:,} tokens", "the longest that fit", "muted"))
            elif change.largest_weights:
                described.append(Fact("a smaller base", f"≤ {size(change.largest_weights)}", note, "muted"))
            continue
        name = ", ".join(" = ".join(setting.split(".", 1)[1].split("=", 1)) for setting in change.settings)
        action = ActionBlock("plan.fit" if index == 0 else "", "", " ".join(f"--set {setting}" for setting in change.settings))
        described.append(Fact(name, size(change.peak), note, "success" if change.fits else "muted", action))
    return Facts(tuple(described))


def memory_bars(plan: Plan) -> Bars:
    """Describe the parts of the peak memory. Each bar begins where the one above ends; the largest part stands out."""
    parts, bars, start = plan.memory_parts, [], 0.0
    for part, nbytes in parts.items():
        note = WORDS.part_notes.get(part, "")
        if part == "gradients" and not nbytes:
            note = "not allocated yet at the peak"
        elif part == "activations" and plan.estimate.checkpointed:
            note = "layer inputs, and one recomputed layer"
        elif part == "process" and plan.traces:
            note += ", and compiled steps"
        end = start + nbytes / max(1, plan.memory)
        style: Style = "primary" if nbytes == max(parts.values()) else "muted"
        bars.append(Bar(part, size(nbytes) if nbytes else "–", start, end, note, style))
        start = end
    return Bars(tuple(bars))


def memory_facts(plan: Plan) -> Facts:
    weights = [Fact("quantized", f"to {plan.bits} bits as saved")] if plan.bits else []
    peak = Fact("peak", WORDS.peaks["loading" if plan.estimate.before else plan.estimate.moment])
    return Facts((peak, Fact("recomputed", "layers, in the backward pass" if plan.estimate.checkpointed else "nothing"), *weights))


def run_facts(plan: Plan, power: PowerState, check_note: str, off_task: Fact | None, search: SearchPrice | None) -> Facts:
    share = 100 * plan.trained / max(1, plan.read)
    replayed = f" + {plan.replayed:,} replayed" if plan.replayed else ""
    reserved = f", {plan.reserved:,} reserved" if plan.reserved else ""
    evaluated = f" ({plan.evaluated:,} evaluated{reserved})" if plan.evaluated < plan.test else ""
    low, high = plan.usual_updates
    usual_mark: Mark = "warning" if plan.unusual_updates else ""
    batch = plan.estimate.batch
    prefix = f"{' with both answers' if batch.sides else ''}{f' + {batch.prefix:,} shared' if batch.prefix else ''}"
    described = [
        Fact("steps", f"{plan.steps:,}", f"in {plural(plan.epochs, 'epoch')}"),
        Fact("usual", f"{low:,} to {high:,} steps", f"for {plural(plan.train, 'row')}", usual_mark) if high else None,
        None if plan.high_rate else Fact("rate", f"{plan.learning_rate:g}"),
        time_fact(plan.cost),
        Fact("less time", ", ".join(plan.time_keys)),
        Fact("power", ", ".join(power_problems(power)), "slow, or might not finish", "warning") if power_problems(power) else None,
        Fact("rows", f"{plan.train:,} training{replayed}, {plan.valid:,} validation, {plan.test:,} held out{evaluated}"),
        Fact("examples", f"{plan.examples:,}", "of these rows") if plan.examples > plan.train + plan.valid else None,
        Fact("checks", one_line(check_note), mark="warning") if check_note else None,
        *_warnings(plan),
        Fact("batch", f"{plural(batch.rows, 'pair' if batch.sides else 'row')} of {batch.width:,} tokens{prefix}", "the largest"),
        Fact("tokens", f"{plan.trained:,} trained", f"{share:.0f}% of {plan.read:,}"),
        Fact("longest", f"{plan.longest:,} tokens" + (f", {segment:,} at a time" if (segment := plan.estimate.segment) else "")),
        Fact("shared", f"{plan.prefix:,} tokens", "computed once per batch") if plan.prefix else None,
        Fact("compiled", plural(plan.traces, "step"), "one per batch shape") if plan.traces else None,
        Fact("compiled", "off", "too few steps to benefit") if plan.compiles and not plan.traces else None,
        Fact("thinking", word(plan.thinking)) if plan.thinking else None,
        Fact("date", one_line(plan.date)) if plan.date else None,
        detectable_gain_fact(plan.compared, *detection(plan)) if plan.test else None,
        *free_facts(plan.free),
        Fact("looks", f"{plan.looks:,} at these held-out rows", f"the next has {level_text(plan.looks + 1)}", "warning")
        if plan.looks
        else None,
        off_task if plan.test else None,
        *([Fact("search", *price_text(search))] if search else []),
    ]
    return Facts(tuple(fact for fact in described if fact))


def detection(plan: Plan) -> tuple[int, float]:
    """Return the number of baselines that an adapter must beat, and the level of the next look at the held-out rows."""
    from mlxtune.evaluation.statistics.significance import level_for_look  # slow to import, for the first screen

    baselines, tuned = plan.contest
    return baselines, level_for_look(plan.looks + 1) / tuned


def time_fact(cost: Cost) -> Fact:
    if cost.seconds is None:
        return Fact("time", "unknown", action=PROBE)
    notes = [f"{_LONG_PARTS[part]} {duration(seconds)}" for part, seconds in cost.long_parts.items()]
    notes += [f"without {plural(cost.sample_answers, 'sample answer')}"] if cost.sample_answers else []
    notes.append(WORDS.time_sources.get(cost.source, f"at the speed of {one_line(cost.source)}"))
    return Fact("time", f"about {duration(cost.seconds)}", ", ".join(notes))


def _warnings(plan: Plan) -> list[Fact]:
    limit = "over data.max_tokens"
    found = [
        Fact("rate", toml_literal(plan.high_rate), "suits SFT; about 1/20 of it suits preferences") if plan.high_rate else None,
        Fact("skipped", plural(plan.skipped, "row"), f"no trained tokens: {limit}") if plan.skipped else None,
        Fact("truncated", plural(plan.truncated, "row"), limit) if plan.truncated else None,
        Fact("references", f"{plan.long_answers:,} of {plan.evaluated:,}", "over evaluation.max_tokens")
        if plan.long_answers
        else None,
        Fact("pairs", f"{plan.incomparable:,} of {plan.evaluated:,}", f"{limit}: not compared") if plan.incomparable else None,
        *(Fact("template", one_line(note)) for note in plan.notes),
    ]
    return [replace(fact, mark="warning") for fact in found if fact]


def cost_facts(plan: Plan, bill: Bill) -> Facts:
    machine = f"{bill.machine.name}, ${bill.machine.price:,.0f} over {bill.machine.months} months"
    described = [_electricity(plan, bill)]
    described += [Fact("rented", *_offer(offer, f"{duration(offer.seconds)}, including setup")) for offer in bill.rented[:1]]
    described += [Fact("hosted", *_offer(offer, f"{plan.read:,} tokens")) for offer in bill.hosted[:1]]
    for even in bill.break_even:
        calls = f"{even.calls:,} calls per month" if even.calls else "never"
        described.append(Fact("break-even", f"{calls}, compared with {even.name}", f"for {machine}; {even.listed}"))
    return Facts(tuple(described))


def _electricity(plan: Plan, bill: Bill) -> Fact:
    if bill.kilowatt_hours is None or bill.money is None:
        missing = ("a probe" if plan.cost.seconds is None else "", "" if bill.watts else "mlxtune plan --watts")
        return Fact("here", "", f"unknown without {' and '.join(filter(None, missing))}")
    energy = f"{bill.kilowatt_hours:.1f} kWh" if bill.kilowatt_hours >= 0.1 else f"{1000 * bill.kilowatt_hours:.1f} Wh"
    source = f"{bill.rated}, according to Apple; not measured" if bill.rated else "as given"
    return Fact("here", f"{energy}, {_money(bill.money)}", f"at {bill.watts:,.0f} W, {source}; ${bill.electricity_price:g} per kWh")


def _offer(offer: CloudOffer, basis: str) -> tuple[str, str]:
    return f"{_money(offer.money)}, {one_line(offer.name)}", f"for {basis}; {offer.vendor}, {offer.listed}"


def _money(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 0.01 else "under 1 cent"
