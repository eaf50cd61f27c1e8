"""Fine-tune on a public task, and print the results beside the published figure.

    python benchmarks/tasks/run.py restaurants8k --rows 64

It downloads the task's files unless ``--mirrors`` names a folder with clones of the repositories, trains with the settings that follow from the rows and the
base, and evaluates on rows of the task's test set. ``--search`` also searches. ``--set`` changes the recipe as for ``mlxtune train``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import sources

import mlxtune
from mlxtune.evaluation.arms import is_free
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.runs import events, registry
from mlxtune.runs.registry import Run
from mlxtune.training.search.budget import active_seconds

HEADER = ("arm", "learning rate", "updates", "correct", "95%", "seconds", "tokens")


def main() -> int:
    options = _options()
    task = sources.load(options.task)
    rows = options.rows or task.rows[0]
    files = sources.read(task, options.work / "cache", options.mirrors)
    workspace = options.work / f"{task.name}-{rows}-{options.model}"
    path = sources.prepare(task, files, rows, options.held_out, workspace)
    overrides = [f"model.base={options.model}", *options.set]
    if options.off_task:
        overrides.append(f"evaluation.regression={_off_task(options)}")
    recipe = mlxtune.load_recipe(path, *overrides)
    if recipe.model.template == "chatml-tools" and options.model.startswith("gemma"):
        overrides.append("model.template=gemma-tools")
        recipe = mlxtune.load_recipe(path, *overrides)
    run = mlxtune.train(recipe, workspace=workspace)
    report = mlxtune.evaluate(run, workspace=workspace)
    table = _lines(run, report)
    if options.search:
        command = [sys.executable, "-m", "mlxtune", "search", str(path), "--budget", options.search]
        subprocess.run([*command, *(f"--set={item}" for item in overrides)], cwd=workspace, check=True)
        found = registry.find_run(workspace, "last", "train")
        best = mlxtune.load_report("last", workspace=workspace)
        table += [[f"search: {name}", *cells] for name, *cells in _lines(found, best) if not name.startswith("base")]
    print(f"\n{task.title}. {rows} rows of {task.repository} ({task.license}), {options.model}\n")
    for line in (HEADER, ["---"] * len(HEADER), *table):
        print(f"| {' | '.join(line)} |")
    published = task.published
    for arm in report.arms:
        if margin := arm.margin:
            print(f"\nMargin of {arm.name}: {margin.value:+.3f} ({margin.low:+.3f} to {margin.high:+.3f}) nats per token")
    if outcome := report.off_task:
        change = outcome.overall
        print(f"\nOff-task: {change.change:+.1%} ({change.low:+.1%} to {change.high:+.1%}) on {change.prompts} prompts")
    print(f"\nPublished: {published.figure} ({published.source}; verified: {published.verified})")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sources.names())
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=0, help="rows to train and validate on; by default the task's smallest size")
    parser.add_argument("--held-out", type=int, default=150, help="rows of the test set")
    parser.add_argument("--off-task", type=int, default=0, metavar="N", help="also answer N prompts of IFEval")
    parser.add_argument("--search", default="", metavar="BUDGET", help='also search, for "30m" or "500 steps"')
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--mirrors", type=Path, help="a folder with clones named OWNER+NAME/repo, instead of downloads")
    parser.add_argument("--work", type=Path, default=Path("build/tasks"), help="folder for downloads and runs")
    return parser.parse_args()


def _off_task(options: argparse.Namespace) -> Path:
    """Write IFEval's prompts to a file, and return its path."""
    task = sources.load("ifeval")
    prompts = task.convert(sources.read(task, options.work / "cache", options.mirrors), 0, options.off_task)["off_task"]
    path: Path = options.work.resolve() / "ifeval.jsonl"
    path.write_text(sources.json_lines(prompts), encoding="utf-8")
    return path


def _lines(run: Run, report: EvaluationReport) -> list[list[str]]:
    """Return a line of the table for the training and for each arm that generates answers."""
    journal = events.read_all(run.folder)
    steps = [event for event in journal if event["type"] == "step"]
    rate, seconds, tokens = run.recipe().training.learning_rate, active_seconds(journal), sum(step["tokens"] for step in steps)
    lines = [["training", f"{rate:.2g}", str(len(steps)), "", "", f"{seconds:.0f}", f"{tokens:,}"]]
    for arm in report.arms:
        if not is_free(arm.name):
            rate = arm.rate(report.answer_metric)
            share, interval = f"{rate.share:.1%} of {rate.total}", f"{rate.low:.0%} to {rate.high:.0%}"
            lines.append([arm.name, "", "", share, interval, f"{arm.seconds:.0f}", f"{arm.answers.tokens:,}"])
    return lines


if __name__ == "__main__":
    sys.exit(main())
