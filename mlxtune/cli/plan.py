"""``plan``: what a recipe will cost on this machine, before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.advice import evidence
from mlxtune.cli.screen import Cell, bar, columns, heading, out, show, show_json
from mlxtune.cli.train import Json, Overrides, RecipeFile
from mlxtune.core.errors import GateError
from mlxtune.core.text import plural, size
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.power import expectation
from mlxtune.models import bundled, catalog
from mlxtune.models.catalog import Base
from mlxtune.models.outline import unseen
from mlxtune.models.resolve import here, resolve
from mlxtune.planning import plan as planning
from mlxtune.planning import wording
from mlxtune.planning.cost import Bill, bill, lines
from mlxtune.planning.machine import machine
from mlxtune.planning.plan import Plan
from mlxtune.recipe import load
from mlxtune.runs import parents

_MARKS: dict[str, Cell] = {"go": ("✓ ", "bold success"), "warn": ("! ", "bold warning"), "refuse": ("✗ ", "bold error")}
_WIDTH = 24  # cells of a bar


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    probe: Annotated[bool, typer.Option("--probe", help="Run two steps at the worst batch, and plan with what they took.")] = False,
    watts: Annotated[
        float, typer.Option("--watts", help="What this machine draws while it trains, by your meter or its maker.", min=0.0)
    ] = 0.0,
    tariff: Annotated[float | None, typer.Option("--tariff", help="What you pay for a kWh, in dollars.", min=0.0)] = None,
    json: Json = False,
) -> None:
    """Say what a recipe takes of this machine: memory, time, energy, money; exits 1 when it does not fit.

    A base of the catalogue that is not here is planned from its known shapes: nothing is downloaded.
    """
    loaded = parents.resolve(Path.cwd(), load(recipe, overrides or []))
    shares = split(read_source(loaded.source, loaded.data.format, loaded.data.map), loaded.data)
    base = None if probe or here(loaded.model.base, near=loaded.folder) else catalog.find(loaded.model.base)
    with bar("looking for the model") as update:
        if base:
            update("measuring the rows", 0.0)
            planner = unseen(loaded, base, machine(), update)
            found = planner.plan(loaded, shares, watts=watts, workspace=Path.cwd())
        else:
            source = resolve(loaded.model.base, near=loaded.folder, progress=update)
            update("running two steps at the worst batch" if probe else "measuring the rows", 0.0)
            found = planning.plan(
                loaded, shares, source.folder, source.config, machine(), fingerprint=source.fingerprint, probe=probe, watts=watts,
                workspace=Path.cwd(),
            )  # fmt: skip
    answering = evidence.answering(Path.cwd(), loaded)
    costs = bill(found, loaded.method.kind, chip=machine().chip, tariff=tariff, answering=answering)
    if json:
        show_json(document(found, costs) | {"seen": base is None})
    else:
        table(found, costs)
        if base:
            _unseen(base)
    if found.word == "refuse":
        raise GateError(found.sentence, mend="See what to change above." if found.changes else "")


def _unseen(base: Base) -> None:
    """That the base is not here, and how to get it."""
    show("")
    show("  ", (f"{base.id} is not here yet: its shapes are the catalogue's, its tokens counted as {bundled.ALIAS} does.", "muted"))
    show("  ", (f"mlxtune models pull {base.id}", "primary"), (f"   {size(base.size)}, {base.licence}", "muted"))


def document(found: Plan, costs: Bill) -> dict[str, Any]:
    """The plan as one JSON value."""
    return asdict(found) | {
        "bill": asdict(costs),
        "word": found.word,
        "sentence": found.sentence,
        "memory": found.memory,
        "step": found.estimate.step,
        "peak": found.estimate.peak,
        "kilowatt_hours": costs.kilowatt_hours,
        "evidence": expectation(found.test),
    }


def table(found: Plan, costs: Bill) -> None:
    """The plan on a terminal: the verdict, where the memory goes, the run, what it costs, and what to change."""
    heading(out, "Plan", "measured on this machine" if found.calibrated else "estimated, within 25 %; --probe measures")
    show("  ", _MARKS[found.word], (found.sentence, "bold"))
    show("")
    heading(out, "Memory", f"at the worst batch, {wording.worst(found)}")
    columns([_part(name, count, found.memory, note) for name, count, note in wording.parts(found)], right=(1,))
    columns([[("in all", "bold"), (size(found.memory), "bold"), (f"of {size(found.limit)}, {wording.moment(found)}", "muted")]])
    show("")
    heading(out, "Run", f"{found.train:,} rows train, {found.valid:,} validate, {found.test:,} are held out")
    columns([[(name, "muted"), value] for name, value in _run(found)])
    show("")
    heading(out, "Cost", "list prices of the day beside them; check again")
    columns([[(label, "muted"), text, (note, "muted")] for label, text, note in lines(found, costs)])
    if found.changes:
        show("")
        heading(out, "What to change", "least harmful first, each on top of the ones above")
        rows: list[list[Cell]] = []
        for change in found.changes:
            mark: Cell = ("✓", "bold success") if change.fits else ("·", "muted")
            settings: Cell = (" ".join(f"--set {one}" for one in change.settings), "primary")
            rows.append([mark, settings, size(change.peak) if change.peak else "", (change.cost, "muted")])
        columns(rows, right=(2,))


def _part(name: str, count: int, total: int, note: str) -> list[Cell]:
    cells = round(_WIDTH * count / max(1, total))
    line = "━" * cells + ("╸" if count and not cells else "")
    return [(name, "muted"), size(count), (line.ljust(_WIDTH), "primary"), (note, "faint")]


def _run(found: Plan) -> list[tuple[str, Cell]]:
    """What the run does and takes, as labelled values."""
    rows: list[tuple[str, Cell]] = [
        ("steps", f"{found.steps:,} in {plural(found.epochs, 'epoch')}"),
        ("tokens", wording.tokens(found)),
    ]
    if found.prefix:
        rows.append(("shared", f"{found.prefix:,} tokens that every row begins with are computed once a batch"))
    if found.cut:
        rows.append(("cut", (f"{plural(found.cut, 'row')} longer than data.max_tokens", "warning")))
    if found.test:
        rows.append(("evidence", expectation(found.test)))
    rows.append(("time", wording.time(found.cost) or ("unknown until --probe", "muted")))
    return rows
