"""``demo``: the whole journey on the bundled model and the sample shop."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.evaluate import measure, table
from mlxtune.cli.follow import follow
from mlxtune.cli.screen import Cell, bar, columns, err, heading, say, show, show_json
from mlxtune.cli.start import typed
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
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState


def demo(
    folder: Annotated[Path, typer.Argument(help="The workspace to work in; made if it is not there.")] = Path("demo"),
    overrides: Overrides = None,
    full: Annotated[bool, typer.Option("--full", help="Then learn the shop's voice from pairs, on top of the format.")] = False,
    json: Json = False,
) -> None:
    """Fetch the bundled model, measure it, fine-tune it on the sample shop, measure it again, and compare."""
    start = time.monotonic()
    for recipe_name in (samples.RECIPE, samples.VOICE):  # a bad override must not leave a folder behind
        load(samples.root() / recipe_name, overrides or [])
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
    run = _train(4, recipe)
    said = [_measured(5, recipe, run, json=json)]
    if full:
        show("")
        voice = load(samples.VOICE, [f"adapter.parent={run.adapter}", *(overrides or [])])
        run = _train(6, voice)
        said.append(_measured(7, run.recipe(), run, json=json))
    if json:
        show_json({"seconds": round(time.monotonic() - start), **said[0], **({"voice": said[1]} if full else {})})
        return
    show(("  Took     ", "muted"), duration(time.monotonic() - start))
    show("")
    show(
        "  Next: ",
        (f"cd {shlex.quote(str(folder))} && {typed()}", "primary"),
        " opens the app on this workspace; your own data goes into ",
        ("recipes/", "primary"),
        ".",
    )


def _train(number: int, recipe: Recipe) -> Run:
    """Train ``recipe`` to its end, and say what became of its validation."""
    heading(err, f"{number}  Train", recipe.name)
    run = launch.start(Path.cwd(), "train", recipe)
    with bar("loading the model") as update:
        _require(follow(run, on_state=lambda state: _draw(state, update)))
    state = run.state()
    first, last = state.validations[0], state.validations[-1]
    told = f"{state.step:,} steps in {duration(state.updated - state.started)}, validation loss {first.loss:.2f} to {last.loss:.2f}"
    found = dict(last.metrics)
    if found:
        told += f", margin {found['rewards/margins']:+.2f}, accuracy {100 * found['rewards/accuracies']:.0f} %"
        told += f", KL {found['kl']:.3f}" if "kl" in found else ""
    say("  ", ("✓ ", "bold success"), told)
    say("")
    return run


def _measured(number: int, recipe: Recipe, run: Run, *, json: bool) -> dict[str, Any]:
    """Evaluate ``run``, show the report unless it goes into a document, and return what that document says."""
    heading(err, f"{number}  Evaluate", recipe.name)
    code, evaluated = measure(recipe, run)
    _require(code)
    report = reports.load(evaluated)
    if not json:
        table(report, evaluated)
        show(("  Adapter  ", "muted"), str(run.adapter))
    return {"run": run.id, "adapter": str(run.adapter), "report": asdict(report)}


def _layers(layers: int | str) -> str:
    return "all" if layers == "all" else f"the last {layers}"


def _draw(state: RunState, update: Callable[[str, float], None]) -> None:
    if not state.total:
        done, total = state.reference
        if total:
            update(f"the reference model scores {total:,} pairs", done / total)
        return
    loss = f"loss {state.steps[-1].loss:.2f}" if state.steps else "first validation"
    left = f", {duration(state.left)} left" if state.left else ""
    update(f"step {state.step:,} of {state.total:,}, {loss}{left}", state.step / state.total)


def _require(code: int) -> None:
    if code:
        raise typer.Exit(code)
