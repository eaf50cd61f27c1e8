"""``data``: look at the rows before anything is trained on them. ``check`` and ``stats`` stand here."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxtune.cli.curate import Format, Map, Where, asked
from mlxtune.cli.screen import Cell, bar, columns, heading, out, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import DataSection, load

if TYPE_CHECKING:  # checks load numpy, which other verbs need not wait for
    from mlxtune.data.checks import Finding, Report
    from mlxtune.data.checks.fixes import Fixed

app = typer.Typer(help="Data: check, stats, split, review, import, export.", no_args_is_help=True)

_TITLES = {"block": ("Blocks", "bold error"), "warn": ("Look at", "bold warning")}
_WORDS: dict[str, Cell] = {"blocked": ("✗ ", "bold error"), "look": ("! ", "bold warning"), "clean": ("✓ ", "bold success")}
_EXAMPLES = 3  # of one check


@app.callback()
def data() -> None:
    """Look at the rows before anything is trained on them."""


@app.command("check")
def check(
    where: Where,
    fix: Annotated[bool, typer.Option("--fix", help="Write a new file with every safe fix applied.")] = False,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="With --fix, apply this check's fix, too.", metavar="CHECK")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where --fix writes.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every finding, not the first of each kind.")] = False,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Say what is wrong with the rows, what it means, and what would mend it; exits 1 when something blocks."""
    from mlxtune.data.checks import CHECKS, Records
    from mlxtune.data.checks.document import document
    from mlxtune.data.checks.fixes import fix as mend
    from mlxtune.data.checks.fixes import wanted

    if (also or out) and not fix:
        raise InputError("--also and --out say how to fix, and --fix is not there.", mend="Add --fix.")
    to = asked(where, format, map)
    path, data = to.path, to.data
    wanted((), also or ())
    report = examine(where, path, data)
    fixed = None
    if fix:
        target = out or path.with_name(f"{path.name}.fixed" if path.is_dir() else f"{path.stem}.fixed.jsonl")
        with Records(path, data.format, data.map) as records:
            fixed = mend(records, report.findings, target, also or ())
    show_json(document(report, fixed)) if json else table(report, fixed, every=every)
    left = [one for one in report.findings if one.severity == "block"]
    if fixed:
        left = [one for one in left if not CHECKS[one.check].fix.safe and one.check not in (also or ())]
    if left:
        raise typer.Exit(1)


@app.command("stats")
def stats(where: Where, format: Format = "auto", map: Map = "", json: Json = False) -> None:
    """Say what the data is: how much, how long, how even, how varied."""
    from mlxtune.data.checks.document import document

    to = asked(where, format, map)
    report = examine(where, to.path, to.data)
    if json:
        whole = document(report)
        show_json({name: whole[name] for name in ("source", "read", "kept", "refused", "formats", "files", "facts", "next")})
        return
    figures(report)


def examine(where: Path, path: Path, data: DataSection) -> Report:
    """Check the source at ``path``, with all that the recipe knows if ``where`` is one. Raises ``InputError``."""
    from mlxtune.evaluation import examine as examination

    recipe = replace(load(where, []), data=data) if where.suffix == ".toml" else None
    with bar(f"reading {one_line(path.name, 40)}") as update:
        return examination.examine(path, data, recipe, update)


def table(report: Report, fixed: Fixed | None, *, every: bool = False) -> None:
    """The report on a terminal: what it means, then blocks, warnings and notes, and the one next thing."""
    heading(out, "Data", one_line(report.path.name, 40))
    _paragraph(report.sentence, _WORDS[report.word], "bold")
    formats = ", ".join(f"{count:,} {name}" for name, count in report.formats.items()) or "none"
    _paragraph(f"{plural(report.read, 'row')} read = {report.kept:,} kept ({formats}) + {report.refused:,} refused", style="muted")
    for note in (note for file in report.files for note in file.notes):
        _paragraph(note, style="muted")
    for severity, (title, style) in _TITLES.items():
        found = [one for one in report.findings if one.severity == severity]
        if found:
            show("")
            count = report.rows("block" if severity == "block" else "warn")
            heading(out, title, plural(count, "row"))
            for id, same in groupby(found, key=lambda one: one.check):
                _kind(report, id, list(same), style, every)
    show("")
    heading(out, "What there is", report.facts.tier)
    for one in report.findings:
        if one.severity == "note":
            _paragraph(one.why, ("· ", "muted"))
    for name, why in report.skipped.items():
        _paragraph(f"{name} not checked: {why}", ("○ ", "muted"), "muted")
    if fixed:
        show("")
        heading(out, "Fixed", one_line(str(fixed.out), 60))
        gone = sum(not change.after for change in fixed.changes)
        mended = len(fixed.changes) - gone
        _paragraph(
            f"{plural(fixed.rows, 'row')} written, {mended:,} of them mended; {gone:,} left out. The source is untouched.",
            ("✓ ", "bold success"),
        )
    show("")
    _paragraph(report.advice, ("Next  ", "bold primary"))


def _kind(report: Report, id: str, found: list[Finding], style: str, every: bool) -> None:
    """One check: its line, and the first of what it found."""
    from mlxtune.data.checks import CHECKS

    check = CHECKS[id]
    way = f"--fix: {check.fix.does}" if check.fix.safe else f"--also {id}" if check.fix.how != "hand" else "by hand"
    title, count = check.title.ljust(40), f"{len(found):>6,}"
    show("  ", (f"{check.mark} ", style), (title, ""), (count, "bold"), "   ", (way, "muted"))
    shown = found if every else found[:_EXAMPLES]
    for one in shown:
        _example(report, one)
    if len(found) > len(shown):
        show("      ", (f"and {len(found) - len(shown):,} more: --all", "faint"))


def _example(report: Report, one: Finding) -> None:
    if not one.rows:
        _paragraph(one.why, indent=6)
        return
    place, id = report.places[one.rows[0]]
    file = f"{place.file.stem} " if len(report.files) > 1 else ""
    where = f"{file}line {place.line:,}" if place.element is None else f"{file}row {place.element:,}"
    others = [report.places[at][0] for at in one.rows[1:3]]
    beside = ", ".join(f"{'' if other.file == place.file else other.file.stem + ' '}line {other.line:,}" for other in others)
    said = f"{one.why}{f' ({beside})' if beside else ''}"
    _paragraph(said, (f"{where}  {id[:6]:6}  " if id else f"{where}  ", "primary"), indent=6)
    for span in one.spans[:1]:
        _paragraph(f"{span.part}: “{one_line(span.text, 70)}”", style="muted", indent=8, lines=1)


def figures(report: Report) -> None:
    """The statistics on a terminal."""
    from mlxtune.data.checks.document import lengths

    facts, long = report.facts, lengths(report)
    heading(out, "Data", one_line(report.path.name, 40))
    _paragraph(
        f"{facts.tier[:1].upper()}{facts.tier[1:]}: {plural(facts.groups, 'different prompt')} in {plural(facts.rows, 'row')}.",
        style="bold",
    )
    formats = ", ".join(f"{count:,} {name}" for name, count in report.formats.items()) or "none"
    columns(
        [
            [("read", "muted"), f"{report.read:,} = {report.kept:,} kept + {report.refused:,} refused"],
            [("formats", "muted"), formats],
            [("files", "muted"), ", ".join(f"{one_line(file.path.name, 30)} {file.read:,}" for file in report.files)],
            [("openings", "muted"), f"about {facts.openings:,.0f} different first three words"],
        ]
    )
    if report.lengths:
        show("")
        heading(
            out, "Lengths", f"in {long['unit']}: median {long['median']:,}, 95 % up to {long['p95']:,}, longest {long['most']:,}"
        )
        _histogram(report)
    for key, counts in facts.tags.items():
        show("")
        heading(out, one_line(key, 30), plural(len(counts), "value"))
        _bars({one_line(value, 24): count for value, count in list(counts.items())[:12]})
    show("")
    _paragraph(report.advice, ("Next  ", "bold primary"))


def _histogram(report: Report) -> None:
    """Rows by length, each bar as many times wider than the one before as keeps them to a dozen."""
    span = (
        math.log2(max(report.lengths) / max(1, min(report.lengths))) if min(report.lengths) else math.log2(max(report.lengths) + 1)
    )
    fine = next((parts for parts in (8, 4, 2, 1) if span * parts <= 11), 1)
    counts = Counter(math.ceil(fine * math.log2(max(1, length))) for length in report.lengths)
    steps = range(min(counts), max(counts) + 1)
    _bars({f"up to {round(2 ** (step / fine)):,}": counts[step] for step in steps})
    limit = report.max_tokens
    if limit and (over := sum(length > limit for length in report.lengths)):
        _paragraph(f"{plural(over, 'row')} over the window of {limit:,}.", ("! ", "bold warning"))


def _bars(counts: Mapping[str, int]) -> None:
    most = max(counts.values(), default=1)
    width = max(10, min(40, _width() - 44))
    rows: list[list[Cell]] = []
    for name, count in counts.items():
        cells = round(width * count / max(1, most))
        rows.append([name, (("━" * cells or ("╸" if count else "")).ljust(width), "primary"), f"{count:,}"])
    columns(rows, right=(2,))


def _width() -> int:
    return max(40, min(out.width, 100)) - 2


def _paragraph(text: str, mark: Cell = "", style: str = "", *, indent: int = 2, lines: int = 0) -> None:
    """``text`` wrapped behind ``mark``, so that it stands in a column of its own."""
    lead = mark if isinstance(mark, str) else mark[0]
    wrapped = textwrap.wrap(one_line(text), max(20, _width() - indent - len(lead)), max_lines=lines or None, placeholder=" …") or [
        ""
    ]
    for number, part in enumerate(wrapped):
        show(" " * indent, mark if not number else " " * len(lead), (part, style))
