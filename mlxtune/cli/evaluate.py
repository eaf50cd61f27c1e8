"""``eval``: evaluate arms on held-out rows against a contract."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.advice.next_step import after_evaluation
from mlxtune.cli.follow import announce, follow, follow_answers
from mlxtune.cli.options import Detach, Json, Overrides, argument, exclusive, option, with_option_groups
from mlxtune.cli.output import draw, err, info, progress_bar, require_consent, say_changed_evaluation, show_json, show_result
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.drilldown import load_failure_classes
from mlxtune.evaluation.judge.endpoint import endpoint_arms, list_hosts, remote_hosts
from mlxtune.evaluation.off_task.prompts import load_prompts
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.models.resolve import resolve, same_base
from mlxtune.present.blocks import Facts, Heading, facts
from mlxtune.present.comparison import comparison_document, comparison_verdict
from mlxtune.present.labels import detectable_drop_fact
from mlxtune.present.next_step import next_step_document
from mlxtune.present.report import report_document
from mlxtune.present.terminal import print_document
from mlxtune.present.verdict import refusal_hint, refusal_text
from mlxtune.recipe import Recipe, load
from mlxtune.runs import registry
from mlxtune.runs.registry import Run
from mlxtune.training.variants import GeneratedVariants, compare_generated, generated_variants, seed_recipes, trained_seeds
from mlxtune.workspace import control
from mlxtune.workspace.index import WorkspaceIndex


@dataclass(frozen=True)
class GateOptions:
    gate: Annotated[bool, option("--gate", "Exit 1 unless the verdict is 'better' and off-task accuracy is 'held'.")] = False
    accept_unknown: Annotated[bool, option("--accept-unknown", "With --gate, also accept 'cannot tell' off-task.")] = False


@with_option_groups
def evaluate(
    which: Annotated[str, argument("A recipe (base only), or a run, RUN@STEP, or its adapter (base and tuned).")] = "last",
    adapter: Annotated[str, option("--adapter", "With a recipe, the adapter to evaluate.")] = "",
    overrides: Overrides = None,
    gate: GateOptions = GateOptions(),
    seeds: Annotated[int, option("--seeds", "Train what is missing of N seeds, and evaluate them together.", min=1)] = 1,
    generated: Annotated[bool, option("--generated", "Compare training with and without the generated rows.")] = False,
    last_look: Annotated[bool, option("--last-look", "Evaluate the adapter once on the rows of data.reserve.")] = False,
    send: Annotated[bool, option("--send", "Consent to sending held-out prompts to arms that are remote endpoints.")] = False,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Evaluate the base model, the baselines, and the adapter on the same held-out rows.

    Closing the terminal or pressing Ctrl-C does not stop it. The adapter must beat the strongest arm that needs no training. For fewer rows, use --set evaluation.rows=50, and to leave out the
    off-task prompts, --set evaluation.regression="".
    """
    exclusive(detach=detach, generated=generated, seeds=seeds > 1)
    exclusive(detach=detach, gate=gate.gate)  # which waits for a result
    exclusive(adapter=adapter, generated=generated, seeds=seeds > 1)
    exclusive(generated=generated, last_look=last_look)
    recipe, run = find_subject(which, overrides or [])
    what = what_is_sent(recipe)
    consent = require_consent(what, send) if what else ""
    if generated:
        _compare_generated(recipe, consent=consent, gate=gate.gate, json=json)
        return
    if seeds > 1 and run:
        first = min(trained_seeds(Path.cwd(), recipe), default=recipe.training.seed)
        recipe = replace(recipe, training=replace(recipe.training, seed=first))
    runs = [trained(one) for one in seed_recipes(recipe, seeds)] if seeds > 1 else []
    entry = _adapter(adapter, recipe, run) if adapter else None
    evaluation = _start(recipe, run, entry=entry, seeds=runs, consent=consent, last_look=last_look)
    if not announce(evaluation, "evaluation", detach=detach, json=json):
        return
    folder = finished(evaluation)
    report = reports.load(folder)
    show_json({"folder": str(folder), **to_json(report)}) if json else show_report(report, folder)
    if gate.gate and (why := refusal_text(report, accept_unknown=gate.accept_unknown)):
        raise GateError(f"Gate failed: {why}", hint=refusal_hint(report))


def _compare_generated(recipe: Recipe, *, consent: str, gate: bool, json: bool) -> None:
    """Compare ``recipe`` trained with and without its generated rows. Train and evaluate what is missing.

    Raise ``InputError`` if no generated row is accepted, ``typer.Exit`` if a run fails, and ``GateError`` with ``gate`` unless they help.
    """
    variants = show_variants(recipe)
    result, steps = compare_generated(Path.cwd(), variants, trained, partial(measure, consent=consent))
    training = facts((
        ("with", f"{variants.generated:,} generated rows, {steps[1]:,} steps"),
        ("against", f"{variants.own:,} own rows alone, {steps[0]:,} steps"),
    ))  # fmt: skip
    counts = {"own": variants.own, "generated": variants.generated, "steps": steps}
    show_result(counts | to_json(result), (*comparison_document(result), Heading("Training"), training), json=json)
    if gate and result.headline.outcome != "better":
        raise GateError(f"Gate failed: {comparison_verdict(result)}")


def show_variants(recipe: Recipe) -> GeneratedVariants:
    """Return ``recipe`` with and without its generated rows, and show how many there are. Raise ``InputError`` if there are none."""
    variants = generated_variants(recipe)
    info(("  ", ""), f"{plural(variants.own, 'training row')} of your own, {variants.generated:,} generated.")
    return variants


def trained(recipe: Recipe) -> Run:
    """Return the newest run of ``recipe`` on its current rows, or train one. Raise ``typer.Exit`` if it does not finish."""
    run = trained_seeds(Path.cwd(), recipe).get(recipe.training.seed)
    if run is not None:
        info(("  ", ""), f"Seed {recipe.training.seed} was trained before: {run.id}")
        return run
    with progress_bar() as update:
        run = control.train(Path.cwd(), recipe, progress=update)
    announce(run, f"run of seed {recipe.training.seed}")
    code = 0
    try:
        code = follow(run)
    finally:
        if code or run.state().phase != "finished":
            info("When it has finished, run the same command again.")
    if code:
        raise typer.Exit(code)
    return run


def measure(recipe: Recipe, run: Run | None = None, *, seeds: Sequence[Run] = (), consent: str = "") -> Path:
    """Evaluate as :func:`_start` does; return the report's folder. Raise ``typer.Exit`` if there is none."""
    return finished(_start(recipe, run, seeds=seeds, consent=consent))


def finished(evaluation: Run) -> Path:
    """Wait for an evaluation, and return the folder with the report. Raise ``typer.Exit`` if there is none."""
    code = follow_answers(evaluation)
    if code or not (evaluation.folder / reports.FILE).is_file():
        raise typer.Exit(code)
    return evaluation.folder


def _start(
    recipe: Recipe, run: Run | None, *, entry: AdapterEntry | None = None, seeds: Sequence[Run] = (), consent: str = "",
    last_look: bool = False,
) -> Run:  # fmt: skip
    """Start the evaluation of a run's adapter, the best of ``seeds``, ``entry``, or the base alone."""
    if (run or entry or seeds) and (prompts := len(load_prompts(recipe))):
        print_document((Facts((detectable_drop_fact(prompts, recipe.evaluation.regression_margin),)),), err)
    with progress_bar() as update:
        return control.evaluate(Path.cwd(), recipe, run, entry, seeds=seeds, consent=consent, last_look=last_look, progress=update)


def what_is_sent(recipe: Recipe) -> str:
    """Return a sentence without its full stop on what an evaluation sends to which machines, empty if it sends nothing."""
    hosts = remote_hosts(recipe)
    cap = sum(endpoint.cap for endpoint in endpoint_arms(recipe).values())
    return f"Rows will be sent to {list_hosts(hosts)}, for at most ${cap:.2f} in total" if hosts else ""


def show_report(report: EvaluationReport, folder: Path) -> None:
    files = facts([("report", str(folder / reports.FILE)), ("outputs", str(folder / "outputs.jsonl"))])
    step = after_evaluation(folder, WorkspaceIndex(folder.parent.parent).read())
    next_step, classes = next_step_document(step) if step else (), load_failure_classes(folder, report)
    draw((Heading("Verdict"), *report_document(report, next_step, classes=classes), files))


def find_subject(which: str, overrides: list[str]) -> tuple[Recipe, Run | None]:
    """Return the recipe, or the recipe and run, that ``which`` names. Raise ``InputError`` if there is none."""
    if which.endswith(".toml"):
        return load(Path(which), overrides), None
    try:
        run = library.find_trained(Path.cwd(), which)
    except InputError as error:
        if any(entry.name == which for entry in library.all_adapters(Path.cwd())):
            raise InputError(f"{which} is an imported adapter.", hint=f"mlxtune eval RECIPE --adapter {which}") from error
        if Path("recipes", f"{which}.toml").is_file():
            raise InputError(error.message, hint=f"Did you mean recipes/{which}.toml?") from error
        raise
    run = run.with_adapter()
    recipe, file = registry.evaluation_recipe(run, overrides)
    if file:
        own = shlex.quote(os.path.relpath(run.folder / "recipe.toml"))
        say_changed_evaluation(file, f"mlxtune eval {own} --adapter {run.id}")
    return recipe, run


def _adapter(which: str, recipe: Recipe, run: Run | None) -> AdapterEntry:
    """Return the adapter to evaluate. Raise ``InputError`` if its base weights differ, or if a run was given."""
    if run:
        raise InputError(f"{run.id} has its own adapter.", hint=f"Use a recipe: mlxtune eval RECIPE --adapter {which}")
    entry = library.find_usable(Path.cwd(), which)
    with progress_bar() as update:
        source = resolve(recipe.model.base, relative_to=recipe.folder, progress=update)
    if not same_base(entry.base_hash, source.fingerprint):
        raise InputError(f"{entry.name} was trained from {one_line(entry.base, 80)}, not from {one_line(source.name, 80)}.")
    return entry
