"""``demo``: run the whole workflow on the bundled model and the sample data."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.evaluate import measure, table
from mlxtune.cli.follow import follow
from mlxtune.cli.options import Json, Overrides
from mlxtune.cli.output import command_name, err, info, progress_bar, show, show_json
from mlxtune.cli.tables import print_facts, print_heading
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import duration
from mlxtune.data import samples
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import BASE, GRAMMAR, TUNED, TUNED_GRAMMAR
from mlxtune.evaluation.json_fields import to_json
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import COMPUTE_VARIABLE, this_machine
from mlxtune.planning.plan import local_planner
from mlxtune.recipe import Recipe, load
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.training import start as training


def demo(
    folder: Annotated[Path, typer.Argument(help="The workspace to use. It is created if it does not exist.")] = Path("demo"),
    overrides: Overrides = None,
    full: Annotated[bool, typer.Option("--full", help="Also train on preference pairs, on top of the first adapter.")] = False,
    native: Annotated[
        bool, typer.Option("--native", help="Use 16-bit precision on a CPU, as on a GPU. This is several times slower.")
    ] = False,
    json: Json = False,
) -> None:
    """Download the bundled model, evaluate it, fine-tune it on sample data, evaluate it again, and compare."""
    start = time.monotonic()
    if native:
        os.environ[COMPUTE_VARIABLE] = "native"  # inherited by the workers
    for recipe_name in (samples.RECIPE, samples.VOICE):  # fail before a folder is created
        load(samples.samples_root() / recipe_name, overrides or [])
    recipe_file = folder / samples.RECIPE
    if not recipe_file.is_file():
        samples.create(folder)
    recipe = with_grammar_arms(load(recipe_file, overrides or []))
    os.chdir(folder)
    print_heading(err, "1  Model")
    with progress_bar("looking for the bundled model") as update:
        source = resolve(recipe.model.base, relative_to=recipe.folder, progress=update)
    info("  ", (source.name, "bold"), "  4-bit, in ", (str(source.folder), "muted"))
    info("")
    print_heading(err, "2  Plan")
    splits = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    planned = local_planner(recipe, source.folder, source.config, this_machine()).plan(recipe, splits)
    layers = "all" if recipe.adapter.layers == "all" else f"the last {recipe.adapter.layers}"
    print_facts([
        ("rows", f"{planned.train:,} training, {planned.valid:,} validation, {planned.test:,} held out"),
        ("steps", f"{planned.steps:,}, adapter of rank {recipe.adapter.rank} on {layers} layers"),
        ("memory", planned.sentence),
    ], console=err)  # fmt: skip
    if planned.outcome == "refuse":
        raise MlxtuneError(planned.sentence)
    info("")
    print_heading(err, "3  Baseline", _baseline_description(recipe))
    _require(measure(recipe, None)[0])
    run = _train(4, recipe)
    results = [_evaluate(5, recipe, run, json=json)]
    if full:
        show("")
        voice = load(samples.VOICE, [f"adapter.parent={run.adapter}", *(overrides or [])])
        run = _train(6, voice)
        results.append(_evaluate(7, run.recipe(), run, json=json))
    if json:
        show_json({"seconds": round(time.monotonic() - start), **results[0], **({"voice": results[1]} if full else {})})
        return
    show(("  Took     ", "muted"), duration(time.monotonic() - start))
    show("")
    command = (f"cd {shlex.quote(str(folder))} && {command_name()}", "primary")
    show("  Next: ", command, " opens the app in this workspace. Put your own recipes in ", ("recipes/", "primary"), ".")


def with_grammar_arms(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with the base and the adapter also constrained to its schema, if llguidance is installed.

    The grammar is the strongest rival that needs no training, and the adapter may use it as well. A recipe that names its arms is
    not changed.
    """
    section = recipe.evaluation
    if section.arms != [BASE, TUNED] or not section.schema or find_spec("llguidance") is None:
        return recipe
    return replace(recipe, evaluation=replace(section, arms=[BASE, GRAMMAR, TUNED, TUNED_GRAMMAR]))


def _baseline_description(recipe: Recipe) -> str:
    text = "the base model with the format in its system prompt"
    return f"{text}, without and with a grammar" if GRAMMAR in recipe.evaluation.arms else text


def _train(number: int, recipe: Recipe) -> Run:
    """Train ``recipe`` and print how its validation loss changed."""
    print_heading(err, f"{number}  Train", recipe.name)
    run = training.start(Path.cwd(), recipe)
    with progress_bar("loading the model") as update:
        _require(follow(run, on_state=lambda state: _draw(state, update)))
    state = run.state()
    first, last = state.validations[0], state.validations[-1]
    text = f"{state.step:,} steps in {duration(state.updated - state.started)}, validation loss {first.loss:.2f} to {last.loss:.2f}"
    if metrics := dict(last.metrics):
        text += f", margin {metrics['rewards/margins']:+.2f}, accuracy {metrics['rewards/accuracies']:.0%}"
        text += f", KL {metrics['kl']:.3f}" if "kl" in metrics else ""
    info("  ", ("✓ ", "bold success"), text)
    info("")
    return run


def _evaluate(number: int, recipe: Recipe, run: Run, *, json: bool) -> dict[str, Any]:
    """Evaluate ``run``, print the report unless ``json``, and return it for the JSON document."""
    print_heading(err, f"{number}  Evaluate", recipe.name)
    code, evaluation = measure(recipe, run)
    _require(code)
    report = reports.load(evaluation)
    if not json:
        table(report, evaluation)
        show(("  Adapter  ", "muted"), str(run.adapter))
    return {"run": run.id, "adapter": str(run.adapter), "report": to_json(report)}


def _draw(state: RunState, update: Callable[[str, float], None]) -> None:
    if not state.total:
        done, total = state.reference_progress
        if total:
            update(f"scoring {total:,} pairs with the reference model", done / total)
        return
    loss = f"loss {state.steps[-1].loss:.2f}" if state.steps else "first validation"
    left = f", {duration(state.remaining_seconds)} left" if state.remaining_seconds else ""
    update(f"step {state.step:,} of {state.total:,}, {loss}{left}", state.step / state.total)


def _require(code: int) -> None:
    if code:
        raise typer.Exit(code)
