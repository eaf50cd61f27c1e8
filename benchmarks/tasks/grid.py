"""Train a recipe by the rule and with other learning rates and numbers of updates, and print the regret of the rule.

    python benchmarks/tasks/grid.py recipes/desk.toml --rates 0.33 1 3 --updates 0.33 1 2

Each cell multiplies the rule's learning rate and updates, and is evaluated on the held-out rows. The best of the cells is chosen on the same
rows, so the regret is an upper bound of what better settings would have gained. ``--set`` changes the recipe as for ``mlxtune train``.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import mlxtune
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import this_machine
from mlxtune.planning.plan import local_planner
from mlxtune.recipe import Recipe
from mlxtune.runs import events
from mlxtune.training.search.budget import active_seconds

HEADER = ("learning rate", "updates", "correct", "95%", "seconds of training")
BY_RULE = ("training.learning_rate=0", "training.batch_size=0", "training.epochs=0", "training.steps=0")
ARMS = (f'evaluation.arms=["{BASE}", "{TUNED}"]', "evaluation.regression=", "evaluation.extras=false")


def main() -> int:
    options = _options()
    overrides = [*ARMS, *options.set]
    rule, updates = _by_rule(mlxtune.load_recipe(options.recipe, *BY_RULE, *overrides))
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    shares: dict[tuple[float, float], float] = {}
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
        run = mlxtune.train(mlxtune.load_recipe(options.recipe, *overrides, *settings, often), workspace=options.workspace)
        report = mlxtune.evaluate(run, workspace=options.workspace)
        result = report.subject.rate(report.answer_metric)
        shares[cell] = result.share
        cells = f"{result.share:.1%} of {result.total}", f"{result.low:.0%} to {result.high:.0%}"
        seconds = active_seconds(events.read_all(run.folder))
        print(f"| {rate:.2g} | {steps} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    print(f"\nRegret of the rule: {100 * (max(shares.values()) - shares[1, 1]):.1f} points")
    return 0


def _by_rule(recipe: Recipe) -> tuple[Recipe, int]:
    """Return ``recipe`` with the rule's settings, and its number of updates."""
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    splits = split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
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
