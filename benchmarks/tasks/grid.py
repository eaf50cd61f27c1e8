"""Train a recipe by the rule and with other learning rates and numbers of updates, and print the regret of the rule.

    python benchmarks/tasks/grid.py recipes/desk.toml --rates 0.33 1 3 --updates 0.33 1 2

Each cell multiplies the rule's learning rate and updates, and is evaluated on the held-out rows. The mean is that of partial scores, if the
task has them. The best of the cells is chosen on the same rows, so the regret is an upper bound of what better settings would have gained;
its interval is that of a paired comparison. The cells that the workspace's ``grid.json`` lists are not computed again. ``--set`` changes
the recipe as for ``mlxtune train``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import fmean

import mlxtune
from mlxtune.data.split import recipe_splits
from mlxtune.evaluation.answers import score_answers
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.evaluation.compare import EvaluationSide, find_side
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import load_evidence
from mlxtune.evaluation.statistics.clusters import cluster_mean
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import this_machine
from mlxtune.planning.plan import local_planner
from mlxtune.recipe import Recipe
from mlxtune.runs import events, registry
from mlxtune.training.search.budget import active_seconds

HEADER = ("learning rate", "updates", "correct", "95%", "mean", "seconds of training")
BY_RULE = ("training.learning_rate=0", "training.batch_size=0", "training.epochs=0", "training.steps=0")
ARMS = (f'evaluation.arms=["{BASE}", "{TUNED}"]', "evaluation.regression=", "evaluation.extras=false")


def main() -> int:
    options = _options()
    overrides = [*ARMS, *options.set]
    rule, updates = _by_rule(mlxtune.load_recipe(options.recipe, *BY_RULE, *overrides))
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    runs: dict[tuple[float, float], str] = {}
    file = options.workspace / "grid.json"
    computed = json.loads(file.read_text()) if file.is_file() else {}
    for cell in sorted(product(options.rates, options.updates), key=lambda cell: cell != (1, 1)):  # the rule first
        if options.cross and 1 not in cell:
            continue
        steps, rate = max(1, round(updates * cell[1])), rule.training.learning_rate * cell[0]
        settings = (
            f"training.learning_rate={rate:.2g}",
            f"training.batch_size={rule.training.batch_size}",
            f"training.steps={steps}",
        )
        often = f"training.validate_every={max(1, steps // 2)}"
        recipe = mlxtune.load_recipe(options.recipe, *overrides, *settings, often)
        name = " ".join((str(options.recipe), *overrides, *settings))
        if name not in computed:
            run = mlxtune.train(recipe, workspace=options.workspace)
            mlxtune.evaluate(run, workspace=options.workspace)
            file.write_text(json.dumps(computed := computed | {name: run.id}, indent=1))
        run = registry.find_run(options.workspace, computed[name], "train")
        report = mlxtune.load_report(run.id, workspace=options.workspace)
        result = report.subject.rate(report.answer_metric)
        runs[cell] = run.id
        mean = "" if result.mean is None else f"{result.mean:.1%}"
        cells = f"{result.share:.1%} of {result.total}", f"{result.low:.0%} to {result.high:.0%}", mean
        seconds = active_seconds(events.read_all(run.folder))
        print(f"| {rate:.2g} | {steps} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    print(f"\nRegret of the rule: {_regret(options.workspace, runs, mean=False)} of correct answers")
    if result.mean is not None:
        print(f"Regret of the rule: {_regret(options.workspace, runs, mean=True)} of the mean")
    return 0


def _regret(workspace: Path, runs: Mapping[tuple[float, float], str], *, mean: bool) -> str:
    """Return the gain of the best cell over the rule's, with its interval if another cell is best."""
    scores = {cell: _scores(find_side(workspace, run), mean=mean) for cell, run in runs.items()}
    best = max(scores, key=lambda cell: (fmean(scores[cell]), cell == (1, 1)))
    if best == (1, 1):
        return "0.0 points"
    changes = [after - before for before, after in zip(scores[1, 1], scores[best], strict=True)]
    gain = cluster_mean(changes, range(len(changes)))
    return f"{100 * gain.value:.1f} points ({100 * gain.low:.1f} to {100 * gain.high:.1f})"


def _scores(side: EvaluationSide, *, mean: bool) -> list[float]:
    """Return whether each answer is correct, or its partial score."""
    evidence = load_evidence(side.folder)
    answers = score_answers(Contract.from_recipe(evidence.recipe), evidence.rows, evidence.answers[side.arm])
    scores = [answer.scores[side.report.answer_metric] for answer in answers]
    return [score.value or 0.0 if mean else float(score.passed) for score in scores]


def _by_rule(recipe: Recipe) -> tuple[Recipe, int]:
    """Return ``recipe`` with the rule's settings, and its number of updates."""
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    splits = recipe_splits(recipe)
    planner = local_planner(recipe, source.folder, source.config, this_machine())
    complete = planner.complete(recipe, splits)
    return complete, planner.plan(complete, splits).steps


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.33, 1, 3], help="factors of the rule's learning rate; one is 1"
    )
    parser.add_argument("--updates", type=float, nargs="+", default=[0.33, 1, 2], help="factors of the rule's updates; one is 1")
    parser.add_argument("--cross", action="store_true", help="change only one of the two at a time")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder for the runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
