"""``eval``: measure arms on held-out rows against a contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.cli.follow import follow
from mlxtune.cli.screen import Cell, bar, columns, heading, interval, line, out, show, show_json
from mlxtune.cli.train import Json, Overrides, check, fetch
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.text import duration, one_line, plural
from mlxtune.evaluation import regression
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.compare import Contrast
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.gate import refusal
from mlxtune.evaluation.report import Arm, Rate, Report
from mlxtune.evaluation.start import require_trained, start
from mlxtune.evaluation.verdict import Comparison, ScoreComparison
from mlxtune.evaluation.wording import compared, hold_out, method
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe, load
from mlxtune.runs import registry
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState


def evaluate(
    which: Annotated[str, typer.Argument(help="A recipe (base only) or a run (base and tuned).", show_default=False)] = "last",
    adapter: Annotated[str, typer.Option("--adapter", help="With a recipe: the adapter to measure.", show_default=False)] = "",
    overrides: Overrides = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 unless the verdict is better and general behaviour held.")] = False,
    json: Json = False,
) -> None:
    """Measure every arm on the same held-out rows, and say whether the adapter beats the strongest of those without training."""
    recipe, run = _subject(which, overrides or [])
    code, folder = measure(recipe, run, adapter=_adapter(adapter, recipe, run) if adapter else None, quiet=json)
    if code:
        raise typer.Exit(code)
    report = reports.load(folder)
    show_json({"folder": str(folder), **asdict(report)}) if json else table(report, folder)
    if gate and (why := refusal(report)):
        raise GateError(f"The gate says no: {why}")


def measure(recipe: Recipe, run: Run | None, *, adapter: Path | None = None, quiet: bool = False) -> tuple[int, Path]:
    """Run an evaluation to its end, with a progress bar; the exit code, and the folder with its report."""
    check(recipe)
    fetch(recipe)
    evaluation = start(Path.cwd(), recipe, run, adapter)
    with bar("loading the model") as update:

        def draw(state: RunState) -> None:
            if state.answering:
                arm, what, done, total = state.answering
                update(f"{arm} answers {plural(total, what)}", done / max(1, total))

        return follow(evaluation, on_state=draw), evaluation.folder


def table(report: Report, folder: Path) -> None:
    """The report on a terminal: the verdict, each metric's rates with intervals, and what was fixed and broken."""
    base, *others = report.arms
    heading(out, "Verdict", plural(report.facts["rows"], "held-out row"))
    mark: Cell = {"better": ("✓ ", "bold success"), "worse": ("✗ ", "bold error")}.get(report.word, ("· ", "muted"))
    show("  ", mark, (report.verdict, "bold"))
    show("    ", (hold_out(report), "muted"))
    show("")
    heading(out, "Arms", "95 % Wilson intervals")
    rows: list[list[Cell]] = []
    for rate in base.rates:
        rows.append([(LABELS[rate.metric], "bold"), "base", *figures(rate, "muted"), (classes(rate), "muted")])
        for arm in others:
            tuned = arm.rate(rate.metric)
            named: Cell = (arm.arm, "bold primary") if arm.arm == TUNED else arm.arm
            rows.append(["", named, *figures(tuned, "primary" if arm.arm == TUNED else "muted"), (classes(tuned), "muted")])
    _with_bars(rows, report.arms)
    show("")
    heading(out, "How they answered", "perplexity of the reference answers")
    columns([_answered(arm) for arm in report.arms], right=(1,))
    if any(arm.margin for arm in report.arms):
        show("")
        heading(out, "Margins", "how much likelier the chosen answer is, nats a token; bootstrap intervals")
        columns([*map(_margin, report.arms), *map(_gain, report.margins)], right=(1,))
    pairs = compared(report)
    for name, items in pairs:
        if len(items) > 1:
            show("")
            comparisons(name, method(report), [(LABELS[item.metric], item) for item in items])
    if single := [(name, item) for name, items in pairs for item in items if len(items) == 1]:
        show("")
        comparisons("Without training", LABELS[single[0][1].metric], single)
    if off_task := regression.of(report.facts):
        show("")
        heading(out, "Off task", f"{plural(off_task.total, 'prompt')} that training should not touch")
        show("  ", ("✗ ", "bold error") if off_task.blocks else ("✓ ", "bold success"), off_task.sentence)
        for ids, what, style in ((off_task.broken, "broken", "error"), (off_task.fixed, "fixed", "success")):
            if ids:
                show("    ", (f"{what}: ", style), (one_line(", ".join(ids), 200), "muted"))
    show("")
    show(("  Report   ", "muted"), str(folder / reports.FILE))
    show(("  Outputs  ", "muted"), str(folder / "outputs.jsonl"))


def comparisons(title: str, note: str, items: Sequence[tuple[str, Comparison]]) -> None:
    """What was fixed and broken, each item with its name."""
    heading(out, f"{title[0].upper()}{title[1:]}", note)
    head: list[Cell] = [(name, "faint") for name in ("", "fixed", "broken", "both", "neither", "change", "p")]
    body: list[list[Cell]] = []
    for name, item in items:
        change = f"{100 * item.change:+.0f} points ({100 * item.low:+.0f} to {100 * item.high:+.0f})"
        fixed: Cell = (str(item.paired.fixed), "success" if item.paired.fixed else "muted")
        broken: Cell = (str(item.paired.broken), "error" if item.paired.broken else "muted")
        value = item.p if item.adjusted is None else item.adjusted
        p = "<0.001" if value < 0.001 else f"{value:.3f}"
        body.append([name, fixed, broken, str(item.paired.both), str(item.paired.neither), change, p])
    columns([head, *body], right=(1, 2, 3, 4, 5, 6))


def contrasted(found: Contrast) -> None:
    """Two evaluations against each other."""
    note = "same rows; Newcombe intervals; exact p over groups of rows, adjusted (Holm)"
    comparisons(f"{found.second} over {found.first}", note, [(LABELS[item.metric], item) for item in found.comparisons])


def _answered(arm: Arm) -> list[Cell]:
    """Where an arm's answers came from, and how well it knows the references."""
    known = f"{arm.perplexity:.3f}" if arm.perplexity is not None else "–"
    return [(arm.arm, "bold"), known, ("from the cache" if arm.cached else f"answered in {duration(arm.seconds)}", "muted")]


def _margin(arm: Arm) -> list[Cell]:
    mean = arm.margin
    shown = f"{mean.value:+.3f}" if mean else "–"
    return [(arm.arm, "bold"), shown, (f"{mean.low:+.3f} to {mean.high:+.3f}" if mean else "", "muted"), ""]


def _gain(item: ScoreComparison) -> list[Cell]:
    counts = f"{item.rose} rose, {item.fell} fell, sign test p {'<0.001' if item.p < 0.001 else f'{item.p:.3f}'}"
    named: Cell = (f"{item.first} to {item.second}", "muted")
    return [named, f"{item.change:+.3f}", (f"{item.low:+.3f} to {item.high:+.3f}", "muted"), (counts, "muted")]


def _with_bars(rows: list[list[Cell]], arms: tuple[Arm, ...]) -> None:
    """``rows`` with the interval drawn between the name and the figures."""
    rates = [rate for pair in zip(*(arm.rates for arm in arms), strict=True) for rate in pair]
    width, names = 25, max(8, *(len(arm.arm) + 2 for arm in arms))
    for row, rate in zip(rows, rates, strict=True):
        style = "primary" if isinstance(row[1], tuple) else "muted"
        made = line("  ").append_text(line(row[0]))
        made.append(" " * max(1, 22 - made.cell_len))
        name = line(row[1])
        made.append_text(name).append(" " * (names - name.cell_len))
        made.append_text(interval(rate.low, rate.share, rate.high, width, style))
        figure, limits, classes = (line(cell) for cell in row[2:])
        made.append(" " * (9 - figure.cell_len)).append_text(figure).append("  ").append_text(limits)
        made.append(" " * max(2, 10 - limits.cell_len)).append_text(classes)
        made.rstrip()
        out.print(made)


def figures(rate: Rate, style: str) -> tuple[Cell, Cell]:
    """A rate and its interval, in percent."""
    bold = "bold" if style == "primary" else ""
    return (f"{100 * rate.share:.1f} %", bold), (f"{100 * rate.low:.0f}–{100 * rate.high:.0f}", "muted")


def classes(rate: Rate) -> str:
    """The three most frequent ways in which outputs fail, after the mean of a metric that has one."""
    mean = [f"mean {rate.mean:.3f}"] if rate.mean is not None else []
    return ", ".join(mean + [f"{count} {kind}" for kind, count in list(rate.failures.items())[:3]])


def _subject(which: str, overrides: list[str]) -> tuple[Recipe, Run | None]:
    """What ``which`` names: a recipe, or a run that has an adapter. Raises ``InputError``."""
    if which.endswith(".toml"):
        return load(Path(which), overrides), None
    try:
        run = registry.find(Path.cwd(), which)
    except InputError as error:
        if Path("recipes", f"{which}.toml").is_file():
            raise InputError(error.message, mend=f"Did you mean recipes/{which}.toml?") from error
        raise
    require_trained(run)
    return load(run.folder / "recipe.toml", overrides), run


def _adapter(which: str, recipe: Recipe, run: Run | None) -> Path:
    """The folder of the adapter to measure with ``recipe``. Raises ``InputError`` when it belongs to other weights, or a run was named."""
    if run:
        raise InputError(
            f"{run.id} is measured with its own adapter.", mend=f"Name a recipe: mlxtune eval RECIPE --adapter {which}"
        )
    entry = library.usable(Path.cwd(), which)
    fetch(recipe)
    source = resolve(recipe.model.base, near=recipe.folder)
    if entry.base_hash not in ("", source.fingerprint):
        raise InputError(
            f"{entry.name} belongs to other weights, those of {one_line(entry.base, 80)}, than {one_line(source.name, 80)}."
        )
    return entry.folder
