"""``demo``: the whole journey on the bundled model and the sample shop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.evaluate import measure, table
from mlxtune.cli.follow import follow
from mlxtune.cli.screen import Cell, bar, columns, err, heading, say, show, show_json
from mlxtune.cli.train import Json, Overrides
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import duration
from mlxtune.data import samples
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation import report as reports
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import machine
from mlxtune.planning.plan import plan
from mlxtune.recipe import load
from mlxtune.runs import launch
from mlxtune.runs.state import RunState


def demo(
    folder: Annotated[Path, typer.Argument(help="The workspace to work in; made if it is not there.")] = Path("demo"),
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Fetch the bundled model, measure it, fine-tune it on the sample shop, measure it again, and compare."""
    start = time.monotonic()
    load(samples.root() / samples.RECIPE, overrides or [])  # a bad override must not leave a folder behind
    recipe_file = folder / samples.RECIPE
    if not recipe_file.is_file():
        samples.create(folder)
    recipe = load(recipe_file, overrides or [])
    os.chdir(folder)
    heading(err, "1  Model")
    with bar("looking for the bundled model") as update:
        source = resolve(recipe.model.base, near=recipe.folder, progress=update)
    say("  ", (source.name, "bold"), "  4-bit, in ", (str(source.folder), "muted"))
    say("")
    heading(err, "2  Plan")
    shares = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    planned = plan(recipe, shares, source.folder, source.config, machine())
    rows: list[list[Cell]] = [
        [("rows", "muted"), f"{planned.train:,} to train on, {planned.valid:,} to validate, {planned.test:,} held out"],
        [
            ("steps", "muted"),
            f"{planned.steps:,}, adapter of rank {recipe.adapter.rank} on {_layers(recipe.adapter.layers)} layers",
        ],
        [("memory", "muted"), planned.sentence],
    ]
    columns(rows, console=err)
    if planned.word == "refuse":
        raise MlxtuneError(planned.sentence)
    say("")
    heading(err, "3  Baseline", "the base model first, asked for the format in its system prompt")
    _require(measure(recipe, None)[0])
    heading(err, "4  Train")
    run = launch.start(Path.cwd(), "train", recipe)
    with bar("loading the model") as update:
        _require(follow(run, on_state=lambda state: _draw(state, update)))
    trained = run.state()
    first, last = trained.validations[0].loss, trained.validations[-1].loss
    say(
        "  ",
        ("✓ ", "bold success"),
        f"{trained.step:,} steps in {duration(trained.updated - trained.started)}, validation loss {first:.2f} to {last:.2f}",
    )
    say("")
    heading(err, "5  Evaluate")
    code, evaluated = measure(recipe, run)
    _require(code)
    report = reports.load(evaluated)
    if json:
        show_json(
            {"seconds": round(time.monotonic() - start), "run": run.id, "adapter": str(run.adapter), "report": asdict(report)}
        )
        return
    table(report, evaluated)
    show(("  Adapter  ", "muted"), str(run.adapter))
    show(("  Took     ", "muted"), duration(time.monotonic() - start))
    show("")
    show(
        "  Next: ",
        (f"cd {folder} && mlxtune", "primary"),
        " opens the app on this workspace; your own data goes into ",
        ("recipes/", "primary"),
        ".",
    )


def _layers(layers: int | str) -> str:
    return "all" if layers == "all" else f"the last {layers}"


def _draw(state: RunState, update: Callable[[str, float], None]) -> None:
    if not state.total:
        return
    loss = f"loss {state.steps[-1].loss:.2f}" if state.steps else "first validation"
    left = f", {duration(state.left)} left" if state.left else ""
    update(f"step {state.step:,} of {state.total:,}, {loss}{left}", state.step / state.total)


def _require(code: int) -> None:
    if code:
        raise typer.Exit(code)
