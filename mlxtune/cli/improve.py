"""``improve``: one round from an adapter's failures on the validation rows to new training rows, and from those to a new adapter."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.cli.evaluate import finished, show_variants, trained
from mlxtune.cli.follow import announce, follow_answers
from mlxtune.cli.generate import TeacherOptions, consent_to, show_generation
from mlxtune.cli.options import Json, argument, option, with_option_groups
from mlxtune.cli.output import draw, progress_bar, show_json, show_result
from mlxtune.core.errors import InputError
from mlxtune.core.json_fields import to_json
from mlxtune.data.generate.request import GenerationRequest, TeacherSpec
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.compare import compare_evaluations, find_side
from mlxtune.evaluation.drilldown import load_failure_classes
from mlxtune.present.blocks import ActionBlock, facts
from mlxtune.present.comparison import comparison_document
from mlxtune.present.labels import percent
from mlxtune.present.report import classes_table
from mlxtune.recipe import Recipe
from mlxtune.runs import registry
from mlxtune.runs.registry import Run
from mlxtune.workspace import control


@with_option_groups
def improve(
    teacher: TeacherOptions,
    which: Annotated[str, argument("A run, RUN@STEP, or its adapter.")] = "last",
    train: Annotated[bool, option("--train", "Train with the accepted rows, and compare on the validation rows.")] = False,
    continued: Annotated[bool, option("--continue", "With --train, continue from the adapter.")] = False,
    n: Annotated[int, option("-n", "--rows", "Number of rows to propose, at most.", min=1, max=10_000)] = 20,
    candidates: Annotated[int, option("-k", "--candidates", "Answers per prompt.", min=1, max=32)] = 8,
    json: Json = False,
) -> None:
    """Class an adapter's failures on the validation rows, and propose training rows like those that it fails.

    The adapter itself answers the training prompts nearest to its failures again; correct answers that differ from the reference are
    proposed. A teacher (--local, --model, --adapter) writes new rows like these instead. Accept proposals in the review, then run the
    command with --train. The held-out rows are not used: evaluate the last adapter once with mlxtune eval.
    """
    run = library.find_trained(Path.cwd(), which).with_adapter()
    recipe, _ = registry.evaluation_recipe(run)
    if train:
        _train(run, recipe, continued=continued, json=json)
        return
    folder = _validate(run)
    report = reports.load(folder)
    classes = load_failure_classes(folder, report)
    if not json:
        rates = [(arm.name, arm.rate(report.answer_metric)) for arm in report.arms]
        shown = facts([(name, f"{rate.hits:,} of {rate.total:,} validation rows, {percent(rate.share)}") for name, rate in rates])
        draw((shown, *([classes_table(classes, report.subject.name)] if classes else [])))
    examples = list(dict.fromkeys(one.id for found in classes for one in found.nearest))
    if not examples:
        raise InputError("No validation row fails that has similar training rows.", hint=f"Evaluate it: mlxtune eval {run.id}")
    generation = _propose(run, recipe, examples[:n], teacher, n, candidates)
    if json:
        show_json({"validation": str(folder), "generation": generation.id, **generation.state().summary})
        return
    show_generation(generation, run.folder / "recipe.toml")
    if generation.state().summary["proposed"]:
        draw((ActionBlock("", "train with the accepted rows", f"mlxtune improve {shlex.quote(which)} --train"),))


def _propose(run: Run, recipe: Recipe, examples: Sequence[str], teacher: TeacherOptions, n: int, candidates: int) -> Run:
    """Generate rows like ``examples``, the IDs of training rows, and return the generation. Raise ``typer.Exit`` if it fails."""
    from mlxtune.data.generate.start import quote, start

    spec = teacher.spec
    own = TeacherSpec(base=library.base_of(library.find_usable(Path.cwd(), run.id)), adapter=str(run.adapter))
    is_own = not (spec.base or spec.model)
    request = GenerationRequest("retries" if is_own else "variations", own if is_own else spec, n, candidates, rows=tuple(examples))
    request = consent_to(quote(recipe, request), request, send=teacher.send)
    with progress_bar() as update:
        generation = start(Path.cwd(), recipe, request, progress=update)
    announce(generation, "generation")
    if code := follow_answers(generation):
        raise typer.Exit(code)
    return generation


def _train(run: Run, recipe: Recipe, *, continued: bool, json: bool) -> None:
    """Train ``recipe`` with the accepted rows and compare the adapter with that of ``run`` on the validation rows."""
    variants = show_variants(recipe)
    recipe = variants.with_generated
    if continued:
        recipe = replace(recipe, adapter=replace(recipe.adapter, parent=str(run.adapter)))
    after = trained(recipe)
    second = _validate(after)
    first = _validate(run, reports.load(second).facts["decoding"]["max_tokens"])  # which may depend on the training rows
    result = compare_evaluations(*(find_side(Path.cwd(), str(folder)) for folder in (first, second)))
    actions = (
        ActionBlock("", "start the next round", f"mlxtune improve {after.id}"),
        ActionBlock("", "evaluate it on the held-out rows, once at the end", f"mlxtune eval {after.id}"),
    )
    found = {"run": after.id, "generated": variants.generated, **to_json(result)}
    show_result(found, (*comparison_document(result, "validation row"), *actions), json=json)


def _validate(run: Run, max_tokens: int | None = None) -> Path:
    """Evaluate a run's adapter on the validation rows, and return the folder with the report. Raise ``typer.Exit`` if it fails."""
    with progress_bar() as update:
        validation = control.validate(Path.cwd(), run, max_tokens=max_tokens, progress=update)
    return finished(validation)
