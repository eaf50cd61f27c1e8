"""``plan``: estimate a recipe's memory, time, and cost on this machine before loading anything."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from mlxtune.advice import evidence
from mlxtune.cli.options import Json, Overrides, RecipeFile, option
from mlxtune.cli.output import draw, progress_bar, show_json
from mlxtune.core.errors import GateError
from mlxtune.core.text import size
from mlxtune.data import check_cache
from mlxtune.data.split import recipe_splits
from mlxtune.evaluation.arms import contest
from mlxtune.evaluation.free_arms import free_rates
from mlxtune.evaluation.holdout.ledger import looks
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.evaluation.statistics.significance import detectable_gain
from mlxtune.models import bundled, catalog
from mlxtune.models.bundled import install
from mlxtune.models.resolve import is_local, resolve
from mlxtune.planning.cost import Bill, make_bill
from mlxtune.planning.machine import power, this_machine
from mlxtune.planning.plan import Plan, local_planner
from mlxtune.present.blocks import ActionBlock, Fact, Facts, Heading
from mlxtune.present.check import check_warning
from mlxtune.present.labels import detectable_drop_fact
from mlxtune.present.plan import detection, plan_document, verdict_sentence
from mlxtune.recipe import load
from mlxtune.runs.registry import resolve_parent
from mlxtune.training.search.board import MIN_STEPS
from mlxtune.training.search.budget import price_search


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    probe: Annotated[bool, option("--probe", "Run two steps on the largest batch, and use the measured memory and time.")] = False,
    watts: Annotated[float, option("--watts", "Measured power draw while training.", min=0.0)] = 0.0,
    electricity_price: Annotated[float | None, option("--electricity-price", "Dollars per kWh.", min=0.0)] = None,
    json: Json = False,
) -> None:
    """Estimate a recipe's memory, time, energy, and cost on this machine. Exits 1 if it does not fit.

    For a catalog model that is not downloaded, the estimate uses its known shapes.
    """
    loaded = resolve_parent(Path.cwd(), load(recipe, overrides or []))
    prompts = len(load_prompts(loaded))
    off_task = detectable_drop_fact(prompts, loaded.evaluation.regression_margin) if prompts else None
    splits = recipe_splits(loaded)
    is_here = probe or is_local(loaded.model.base, relative_to=loaded.folder)
    base = None if is_here else catalog.find(loaded.model.base)
    machine = this_machine()
    with progress_bar() as update:
        if base:
            install.ensure(bundled.DEFAULT, update)
            update("measuring the rows", 0.0)
            planner = base.planner(loaded, machine)
        else:
            source = resolve(loaded.model.base, relative_to=loaded.folder, progress=update)
            update("measuring the rows", 0.0)
            planner = local_planner(loaded, source.folder, source.config, machine, source.fingerprint)
        loaded = planner.complete(loaded, splits)
        if probe:
            planner.probe(loaded, update)
        result = planner.plan(loaded, splits, watts=watts, workspace=Path.cwd())
        seen = looks(Path.cwd(), [row.id for row in splits.evaluated])
        result = replace(result, contest=contest(loaded), looks=seen, free=free_rates(loaded, splits))
    answering = evidence.seconds_per_answer(Path.cwd(), loaded)
    bill = make_bill(result, loaded.method.kind, chip=machine.chip, electricity_price=electricity_price, answering=answering)
    search = price_search(loaded, result, answering=answering, watts=bill.watts)
    if json:
        show_json(document(result, bill) | {"seen": base is None, "power": asdict(power()), "search": asdict(search)})
    else:
        own = search if loaded.has_contract and result.steps >= MIN_STEPS else None
        check_note = check_warning(check_cache.last_check(loaded))
        found = plan_document(result, bill, power(), check_note=check_note, off_task=off_task, search=own)
        if base:
            tokens = f"tokens of {bundled.DEFAULT.alias}{'' if loaded.model.thinking == 'off' else ', without reasoning'}"
            missing = Fact("base", base.id, f"shapes from the catalog, {tokens}", "warning")
            fetch = ActionBlock("plan.fetch", f"{size(base.nbytes)}, {base.license}", f"mlxtune models pull {base.id}")
            found = (*found, Heading("Base", "not downloaded"), Facts((missing,)), fetch)
        draw(found)
    if result.outcome == "refuse":
        raise GateError(verdict_sentence(result))


def document(plan: Plan, bill: Bill) -> dict[str, Any]:
    return asdict(plan) | {
        "bill": asdict(bill),
        "outcome": plan.outcome,
        "memory": plan.memory,
        "step": plan.estimate.step,
        "peak": plan.estimate.peak,
        "kilowatt_hours": bill.kilowatt_hours,
        "detectable_gain": detectable_gain(plan.compared, 0.0, *detection(plan)),
    }
