"""``plan``: estimate a recipe's memory, time, and cost on this machine before loading anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.advice import evidence
from mlxtune.cli.options import Json, Overrides, RecipeFile
from mlxtune.cli.output import Cell, out, progress_bar, show, show_json
from mlxtune.cli.tables import print_columns, print_facts, print_heading, print_section, share_bar
from mlxtune.core.errors import GateError
from mlxtune.core.text import plural, size
from mlxtune.data import check_cache
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.off_task.result import off_task_power
from mlxtune.evaluation.statistics.power import power_statement
from mlxtune.models import bundled, catalog
from mlxtune.models.bundled import install
from mlxtune.models.resolve import is_local, resolve
from mlxtune.planning.cost import Bill, bill_lines, make_bill
from mlxtune.planning.machine import power, this_machine
from mlxtune.planning.plan import Plan, local_planner
from mlxtune.present.search import price_text
from mlxtune.recipe import Recipe, load
from mlxtune.runs.registry import resolve_parent
from mlxtune.training.search.price import price_search
from mlxtune.training.search.rungs import MIN_STEPS

_MARKS: dict[str, Cell] = {"go": ("✓ ", "bold success"), "warn": ("! ", "bold warning"), "refuse": ("✗ ", "bold error")}
_BAR_WIDTH = 24  # cells


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run two steps on the largest batch, and use the measured memory and time.")
    ] = False,
    watts: Annotated[
        float, typer.Option("--watts", help="Power draw of this machine while training, from a meter or a data sheet.", min=0.0)
    ] = 0.0,
    electricity_price: Annotated[
        float | None, typer.Option("--electricity-price", help="Your electricity price in dollars per kWh.", min=0.0)
    ] = None,
    json: Json = False,
) -> None:
    """Estimate a recipe's memory, time, energy, and cost on this machine. Exits 1 if it does not fit.

    For a catalog model that is not downloaded, the estimate uses its known shapes.
    """
    loaded = resolve_parent(Path.cwd(), load(recipe, overrides or []))
    off_task = off_task_power(loaded)
    splits = split(read_source(loaded.source, loaded.data.format, loaded.data.map), loaded.data)
    is_here = probe or is_local(loaded.model.base, relative_to=loaded.folder)
    base = None if is_here else catalog.find(loaded.model.base)
    machine = this_machine()
    with progress_bar("looking for the model") as update:
        if base:
            install.ensure(bundled.DEFAULT, update)
            update("measuring the rows", 0.0)
            planner = base.planner(loaded, machine)
        else:
            source = resolve(loaded.model.base, relative_to=loaded.folder, progress=update)
            update("measuring the rows", 0.0)
            planner = local_planner(loaded, source.folder, source.config, machine, source.fingerprint)
            if probe:
                planner.probe(loaded, update)
        result = planner.plan(loaded, splits, watts=watts, workspace=Path.cwd())
    answering = evidence.seconds_per_answer(Path.cwd(), loaded)
    bill = make_bill(result, loaded.method.kind, chip=machine.chip, electricity_price=electricity_price, answering=answering)
    if json:
        search = price_search(loaded, result, answering=answering, watts=bill.watts)
        show_json(document(result, bill) | {"seen": base is None, "power": asdict(power()), "search": asdict(search)})
    else:
        _print_plan(result, bill, loaded, answering, off_task, check_cache.doubt(loaded))
        if base:
            show("")
            note = (
                f"{base.id} is not downloaded. Its shapes are from the catalog, and tokens are counted with {bundled.DEFAULT.alias}"
            )
            note += ", without reasoning." if loaded.model.thinking != "off" else "."
            show("  ", (note, "muted"))
            show("  ", (f"mlxtune models pull {base.id}", "primary"), (f"   {size(base.nbytes)}, {base.license}", "muted"))
    if result.outcome == "refuse":
        raise GateError(result.sentence, hint="See the suggested changes above." if result.changes else "")


def document(plan: Plan, bill: Bill) -> dict[str, Any]:
    """Return the plan as a JSON object."""
    fields = asdict(plan)
    fields |= {"asked": fields.pop("prompt_tokens"), "answered": fields.pop("answer_tokens")}  # keys from earlier versions
    return fields | {
        "bill": asdict(bill),
        "word": plan.outcome,
        "sentence": plan.sentence,
        "memory": plan.memory,
        "step": plan.estimate.step,
        "peak": plan.estimate.peak,
        "kilowatt_hours": bill.kilowatt_hours,
        "evidence": power_statement(plan.compared),
    }


def _print_plan(plan: Plan, bill: Bill, recipe: Recipe, answering: float | None, off_task: str, doubt: str) -> None:
    print_heading(out, "Plan", plan.basis if plan.probed else f"{plan.basis}; use --probe to measure")
    show("  ", _MARKS[plan.outcome], (plan.sentence, "bold"))
    print_section("Memory", f"largest batch: {plan.largest_batch}")
    parts: list[list[Cell]] = []
    for name, nbytes, note in plan.memory_parts:
        bar = share_bar(nbytes / max(1, plan.memory), _BAR_WIDTH)
        parts.append([(name, "muted"), size(nbytes), (bar, "primary"), (note, "faint")])
    print_columns(parts, right=(1,))
    total = f"of {size(plan.limit)}, {plan.peak_moment}"
    print_columns([[("total", "bold"), (size(plan.memory), "bold"), (total, "muted")]])
    print_section("Run", plan.rows_summary)
    price, budget = price_text(price_search(recipe, plan, answering=answering, watts=bill.watts))
    search: list[tuple[str, Cell]] = (
        [("search", price), ("", (budget, "muted"))] if recipe.has_contract and plan.steps >= MIN_STEPS else []
    )
    checks: list[tuple[str, Cell]] = [("checks", (doubt, "warning"))] if doubt else []
    print_facts([*checks, *_run_facts(plan, off_task), *search])
    print_section("Cost", "list prices as of the dates shown")
    print_columns([[(line.label, "muted"), line.value, (line.note, "muted")] for line in bill_lines(plan, bill)])
    if plan.changes:
        print_section("Suggested changes", "least harmful first, each on top of the ones above")
        rows: list[list[Cell]] = []
        for change in plan.changes:
            mark: Cell = ("✓", "bold success") if change.fits else ("·", "muted")
            settings: Cell = (" ".join(f"--set {setting}" for setting in change.settings), "primary")
            rows.append([mark, settings, size(change.peak) if change.peak else "", (change.cost, "muted")])
        print_columns(rows, right=(2,))


def _run_facts(plan: Plan, off_task: str) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = [("steps", f"{plan.steps:,} in {plural(plan.epochs, 'epoch')}"), ("tokens", plan.token_summary)]
    if plan.prefix:
        rows.append(("shared", f"{plan.prefix:,} tokens that all rows share are computed once per batch"))
    if plan.compile_summary:
        rows.append(("compiled", plan.compile_summary))
    if plan.skipped:
        rows.append(("skipped", (f"{plural(plan.skipped, 'row')} without trained tokens within data.max_tokens", "warning")))
    if plan.cut:
        rows.append(("truncated", (f"{plural(plan.cut, 'row')} longer than data.max_tokens", "warning")))
    rows += [("rate", (plan.rate_warning, "warning"))] if plan.rate_warning else []
    rows += plan.template_facts
    rows += [("template" if number == 0 else "", (note, "warning")) for number, note in enumerate(plan.notes)]
    if plan.long_answers:
        rows.append(("answers", (plan.long_answers_summary, "warning")))
    if plan.incomparable:
        rows.append(("evaluated", (f"{plan.incomparable_summary}: not compared", "warning")))
    if plan.test:
        rows.append(("power", power_statement(plan.compared)))
        rows += [("off-task", off_task)] if off_task else []
    if problems := power().problems:
        rows.append(("power", (f"{', '.join(problems)}: the run would be slow, or might not finish", "warning")))
    rows.append(("time", plan.cost.time_summary or ("unknown until --probe", "muted")))
    rows.append(("less time", (plan.less_time, "muted")))
    return rows
