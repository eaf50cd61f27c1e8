"""``demo``: run the whole workflow on the bundled model and the sample data."""

import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.api import generate
from mlxtune.cli.evaluate import measure, show_report, trained
from mlxtune.cli.follow import follow
from mlxtune.cli.judge import judge
from mlxtune.cli.options import Json, Overrides, option
from mlxtune.cli.output import command_name, err, info, progress_bar, show, show_json
from mlxtune.core.errors import GateError, MlxtuneError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import duration, one_line
from mlxtune.data import samples
from mlxtune.data.rows import PromptRow
from mlxtune.data.split import recipe_splits, sample_rows
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import BASE, OPTIMIZED, STRONGEST, TUNED, TUNED_ARMS, UNTRAINED, lacks_package
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import load_evidence
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, ModelAnswer
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import COMPUTE_VARIABLE, this_machine
from mlxtune.planning.plan import local_planner
from mlxtune.present.plan import verdict_sentence
from mlxtune.present.run import work_text
from mlxtune.present.terminal import Part, print_columns, print_heading
from mlxtune.present.verdict import verdict_text
from mlxtune.recipe import Recipe, load
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.serving.protocol import GREEDY
from mlxtune.training.variants import seed_recipes
from mlxtune.workspace import control

_FIRST_TOKENS = 80  # of the base's answer that is shown before anything is measured; it would go on
_SEEDS, _FULL_PROMPTS, _JUDGE = 3, 333, "gemma-3-270m"  # of the full demonstration, with a third of the off-task prompts


def demo(
    folder: Annotated[Path, typer.Argument(help="The workspace.")] = Path("demo"),
    overrides: Overrides = None,
    full: Annotated[bool, option("--full", "Three seeds, every arm, and a judge: many times as long.")] = False,
    native: Annotated[bool, option("--native", "Use 16-bit precision on a CPU, too: several times slower.")] = False,
    json: Json = False,
) -> None:
    """Download the bundled model, evaluate it, fine-tune it on sample data, evaluate it again, and compare."""
    start = time.monotonic()
    if native:
        os.environ[COMPUTE_VARIABLE] = "native"  # inherited by the workers
    load(samples.samples_root() / samples.QUICK, overrides or [])  # fail before a folder is created
    recipe_file = folder / samples.QUICK
    if not recipe_file.is_file():
        samples.create(folder)
    recipe = with_demo_arms(load(recipe_file, overrides or []), full=full)
    os.chdir(folder)
    run, evaluation = _run_workflow(recipe, seeds=_SEEDS if full else 1)
    if full and not json:
        with suppress(GateError):  # that the judge is unreliable is a result, too, and in the report
            judge(which=evaluation.name, first=BASE, second=TUNED, local=_JUDGE)
    report = reports.load(evaluation)
    seconds = time.monotonic() - start
    if json:
        show_json({"seconds": round(seconds), "run": run.id, "adapter": str(run.adapter), "report": to_json(report)})
        return
    show_report(report, evaluation)
    show(("  Adapter  ", "muted"), str(run.adapter))
    show(("  Took     ", "muted"), duration(seconds))
    show("")
    command = (f"cd {shlex.quote(str(folder))} && {command_name()}", "primary")
    show("  Next: ", command, " opens the app in this workspace. Put your own recipes in ", ("recipes/", "primary"), ".")


def _begin(stage: str, note: str = "") -> None:
    print_heading(err, stage, note)


def _end(*summary: Part) -> None:
    info("  ", ("✓ ", "bold success"), *summary)
    info("")


def _run_workflow(recipe: Recipe, seeds: int) -> tuple[Run, Path]:
    """Return the run that is recommended, and the folder of its evaluation."""
    _begin("1  Model")
    with progress_bar("looking for the bundled model") as update:
        source = resolve(recipe.model.base, relative_to=recipe.folder, progress=update)
    _end((source.name, "bold"), "  4-bit, in ", (str(source.folder), "muted"))
    _begin("2  Plan")
    splits = recipe_splits(recipe)
    planner = local_planner(recipe, source.folder, source.config, this_machine())
    planned = planner.plan(planner.complete(recipe, splits), splits)
    if planned.outcome == "refuse":
        raise MlxtuneError(verdict_sentence(planned))
    rows = f"{planned.train:,} training, {planned.valid:,} validation, and {planned.test:,} held-out rows"
    _end(f"{rows}; {planned.steps:,} steps. ", verdict_sentence(planned))
    _begin("3  Baseline", "the base model, and what is possible without training")
    row = sample_rows(splits.prompts, recipe.evaluation.rows)[0]
    prompt, sampling = [asdict(message) for message in row.prompt], replace(GREEDY, max_tokens=_FIRST_TOKENS)
    [output] = generate(prompt, base=recipe.model.base, sampling=sampling)
    show_answer(recipe, row, BASE, output)
    early = [name for name in recipe.evaluation.arms if name != OPTIMIZED] or [BASE]  # it takes as long as the training
    _end(verdict_text(reports.load(measure(replace(recipe, evaluation=replace(recipe.evaluation, arms=early)))).verdict))
    run = _train(recipe)
    others = [trained(one) for one in seed_recipes(recipe, seeds)[1:]]
    _begin("5  Evaluate", recipe.name)
    evaluation = measure(recipe, run, seeds=[run, *others] if others else ())
    report = reports.load(evaluation)
    _end(verdict_text(report.verdict))
    for answer in load_evidence(evaluation).answers.get(TUNED, ()):
        if answer.id == row.id:
            show_answer(recipe, row, TUNED, answer.output)
    info("")
    return next((one for one in others if one.id == report.facts["run"]), run), evaluation


def show_answer(recipe: Recipe, row: PromptRow, arm: str, output: str) -> None:
    prompt = "\n\n".join(message.content for message in row.prompt)
    scores = Contract.from_recipe(recipe).score(ModelAnswer(output, reference=row.reference, prompt=prompt))
    wrong = dict.fromkeys(scores[name].detail for name in (CONTRACT, CORRECT) if name in scores and not scores[name].passed)
    rows: list[list[Part]] = [[("message", "muted"), row.prompt[-1].content], [(arm, "muted"), one_line(output)]]
    rows += [["", (f"✗ {detail}", "error")] for detail in wrong] or [["", ("✓ passes", "success")]]
    print_columns(rows, console=err)


def with_demo_arms(recipe: Recipe, *, full: bool) -> Recipe:
    """Return ``recipe``, if it lists no arms, with the strongest untrained arm only, to save time, or with every arm and figure."""
    if recipe.evaluation.arms:
        return recipe
    if not full:
        return replace(recipe, evaluation=replace(recipe.evaluation, arms=[BASE, STRONGEST, TUNED]))
    arms = [name for name in (*UNTRAINED, *TUNED_ARMS) if not lacks_package(name)]
    return replace(recipe, evaluation=replace(recipe.evaluation, arms=arms, extras=True, regression_rows=_FULL_PROMPTS))


def _train(recipe: Recipe) -> Run:
    _begin("4  Train", recipe.name)
    run = control.train(Path.cwd(), recipe)
    with progress_bar("loading the model") as update:
        code = follow(run, on_state=lambda state: _draw(state, update))
    state = run.state()
    if code or state.phase != "finished":  # it failed, was stopped, or continues without us
        raise typer.Exit(code)
    first, last = state.validations[0], state.validations[-1]
    text = f"{state.step:,} steps in {duration(state.updated - state.started)}, validation loss {first.loss:.2f} to {last.loss:.2f}"
    if metrics := dict(last.metrics):
        text += f", reward margin {metrics['rewards/margins']:+.2f}, reward accuracy {metrics['rewards/accuracies']:.0%}"
        text += f", KL {metrics['kl']:.3f}" if "kl" in metrics else ""
    _end(text)
    return run


def _draw(state: RunState, update: Callable[[str, float], None]) -> None:
    if not state.total:
        if state.work:
            update(": ".join(work_text(state.work)), state.work[1] / max(1, state.work[2]))
        return
    loss = f"loss {state.steps[-1].loss:.2f}" if state.steps else "first validation"
    left = f", {duration(state.remaining_seconds)} left" if state.remaining_seconds else ""
    update(f"step {state.step:,} of {state.total:,}, {loss}{left}", state.step / state.total)
