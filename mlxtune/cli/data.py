"""``data``: check, split, import, and export rows. ``data review`` is in ``review.py``, ``data generate`` in ``generate.py``."""

from __future__ import annotations

import math
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.options import Json
from mlxtune.cli.output import Cell, info, out, progress_bar, show, show_json
from mlxtune.cli.tables import print_columns, print_facts, print_heading, print_section, share_bar
from mlxtune.core.errors import DataError, InputError, MlxtuneError
from mlxtune.core.files import similar_file
from mlxtune.core.text import one_line, plural
from mlxtune.data import export as exports
from mlxtune.data import review as reviews
from mlxtune.data import split as splits
from mlxtune.data.importer import import_rows, locate
from mlxtune.data.readers.formats import FORMATS, check_format, parse_mapping
from mlxtune.data.rows import row_tags
from mlxtune.data.source import Source, read_source
from mlxtune.data.split import SPLIT_NAMES, SplitName, Splits
from mlxtune.present import check as words
from mlxtune.recipe import DataSection, load
from mlxtune.runs import registry

if TYPE_CHECKING:  # the checks import numpy
    from mlxtune.data.checks.base import Finding
    from mlxtune.data.checks.fixes import FixResult
    from mlxtune.data.checks.report import CheckReport

SourceArgument = Annotated[Path, typer.Argument(metavar="SRC", help="A file or folder with rows, or a recipe.")]
Format = Annotated[str, typer.Option("--format", help=f"The format of the rows: auto, {', '.join(FORMATS)}.")]
Map = Annotated[str, typer.Option("--map", help="Column names, for example prompt=question,completion=answer.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed of the split.")]
Holdout = Annotated[float | None, typer.Option("--holdout", help="Fraction of rows in the test split.", min=0.0, max=0.9)]
Validation = Annotated[
    float | None, typer.Option("--validation", help="Fraction of rows in the validation split.", min=0.0, max=0.9)
]
GroupBy = Annotated[str | None, typer.Option("--group-by", help="A metadata key. Rows with the same value stay together.")]

USUAL_HOLDOUT = (0.10, 0.20)
EXAMPLES = 3  # per check

_SEVERITY_TITLES = {"block": ("Must fix", "bold error"), "warn": ("Review", "bold warning")}
_VERDICT_MARKS: dict[str, Cell] = {"blocked": ("✗ ", "bold error"), "look": ("! ", "bold warning"), "clean": ("✓ ", "bold success")}

app = typer.Typer(help="Check, split, review, import, and export data.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Check, split, review, import, and export data."""


def resolve_source(source: Path, format: str = "auto", map: str = "", **settings: Any) -> tuple[Path, DataSection]:
    """Return the path of a source, and how to read and split it according to its recipe or last split and the options.

    Raise ``InputError`` if the source does not exist or an option is invalid.
    """
    check_format(format)
    hint = "Specify a file or folder with rows, or a recipe."
    if source.suffix == ".toml":
        recipe = load(source, [])
        path, section, hint = recipe.source, recipe.data, f"Check data.source in {source}; it is relative to the recipe."
    else:
        path, section = source, splits.with_recorded_settings(source, DataSection(str(source)))
    if not os.path.exists(path):  # unlike Path.exists, does not fail if the name is too long
        of_recipe = similar_file(source, Path("recipes")) if source.suffix != ".toml" else ""
        raise DataError(f"There is no data at {path}.", hint=similar_file(Path(path)) or of_recipe or hint)
    given = {name: value for name, value in settings.items() if value is not None}
    if format != "auto":
        given["format"] = format
    if map:
        given["map"] = parse_mapping(map)
    return path, replace(section, **given)


def run_checks(source: Path, path: Path, section: DataSection, *, fetch: bool = True) -> CheckReport:
    """Check the source at ``path``, with the contract if ``source`` is a recipe. Raise ``InputError`` if it is invalid.

    The recipe's model is downloaded for its tokenizer unless ``fetch`` is false.
    """
    from mlxtune.evaluation.check_process import check_source

    recipe = replace(load(source, []), data=section) if source.suffix == ".toml" else None
    with progress_bar(f"reading {one_line(path.name, 40)}") as update:
        return check_source(path, section, recipe, update, fetch=fetch)


@app.command("check")
def check(
    source: SourceArgument,
    fix: Annotated[bool, typer.Option("--fix", help="Write a copy with every safe fix applied.")] = False,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="With --fix, also apply this check's fix.", metavar="CHECK")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file for --fix to write.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every finding.")] = False,
    mute: Annotated[
        str, typer.Option("--mute", help="Stop reporting this check for this source; requires --reason.", metavar="CHECK")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why the check is muted; recorded in the journal.")] = "",
    unmute: Annotated[str, typer.Option("--unmute", help="Report this check again.", metavar="CHECK")] = "",
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Find problems in the rows and show how to fix them. Exits 1 if rows should not be trained on as they are.

    Edits made in review are applied before the rows are checked.
    """
    from mlxtune.data.access.records import SourceRecords
    from mlxtune.data.checks.fixes import fixed_copy_path, select_fixes, write_fixed
    from mlxtune.data.checks.registry import get_check
    from mlxtune.data.checks.report import report_json

    if (also or out) and not fix:
        raise InputError("--also and --out require --fix.", hint="Add --fix.")
    path, section = resolve_source(source, format, map)
    select_fixes((), also or ())
    _mute(path, mute, unmute, reason)
    report = run_checks(source, path, section)
    fixed = None
    if fix and not report.kept:
        raise DataError(
            f"{one_line(path.name, 60)} has no row that can be read, so nothing can be fixed.", hint=words.NAME_THE_COLUMNS
        )
    if fix:
        target = out or fixed_copy_path(path)
        with SourceRecords(path, section.format, section.map) as records:
            fixed = write_fixed(records, report.findings, target, also or (), state=reviews.load(path))
    if json:
        show_json(report_json(report, fixed.to_json() if fixed else None))
    else:
        _show_report(report, fixed, every)
        command = _next_command(source, report, section, fixed)
        if command:
            is_later = (
                not fixed
                and not command.startswith("mlxtune data check")
                and report.improvement.code not in ("more_prompts", "none")
            )
            show(("Then " if is_later else "Run ", "bold primary"), (command, "primary"))
    by_hand = [finding for _, finding in fixed.by_hand] if fixed else []
    blocks = [finding for finding in report.findings if finding.severity == "block"]
    if any(not fixed or one in by_hand or not (get_check(one.check).fix.safe or one.check in (also or ())) for one in blocks):
        raise typer.Exit(1)


def _next_command(source: Path, report: CheckReport, section: DataSection, fixed: FixResult | None) -> str:
    """Return the command that helps most, or an empty string: a map for unknown columns, the fixes, a recipe, a check with the
    recipe, the base's evaluation, or training.
    """
    from mlxtune.data.checks.registry import get_check
    from mlxtune.data.readers.columns import mapping_option
    from mlxtune.data.scaffold import first_record, guessed_mapping
    from mlxtune.recipe.edit import toml_literal

    is_recipe, quoted = source.suffix == ".toml", shlex.quote(str(source))
    if not section.map and (report.kept == 0 or set(report.formats) == {"text"}):
        with suppress(DataError):
            if guess := guessed_mapping(first_record(report.path)):
                return f"mlxtune data check {quoted} {mapping_option(guess)}" if not is_recipe else ""
    options = f" {mapping_option(section.map)}" if section.map and not is_recipe else ""
    format = f" --format {section.format}" if section.format != "auto" and not is_recipe else ""
    if fixed and is_recipe:
        copy = shlex.quote(os.path.relpath(fixed.out, source.parent))
        settings = [f"data.source={copy}", *(["data.map={}"] if section.map else [])]  # the copy is in mlxtune's own format
        settings += ["data.format=auto"] if section.format != "auto" else []
        return f"mlxtune {_next_verb(source)} {quoted} {' '.join(f'--set {one}' for one in settings)}" if not fixed.by_hand else ""
    if fixed:
        return f"mlxtune init --from {shlex.quote(str(fixed.out))}"
    blocks = {finding.check for finding in report.findings if finding.severity == "block"}
    if blocks and report.kept:
        unsafe = sorted(id for id in blocks if not get_check(id).fix.safe and get_check(id).fix.kind != "hand")
        return f"mlxtune data check {quoted}{format}{options} --fix{''.join(f' --also {id}' for id in unsafe)}"
    if not report.kept:
        return ""
    if is_recipe:
        own = load(source, []).data
        settings = [f"data.map={toml_literal(section.map)}"] if section.map != own.map else []
        settings += [f"data.format={section.format}"] if section.format != own.format else []
        return " ".join((f"mlxtune {_next_verb(source)} {quoted}", *(f"--set {shlex.quote(one)}" for one in settings)))
    if recipe := _recipe_for(report.path):
        return f"mlxtune data check {shlex.quote(str(recipe))}"
    return f"mlxtune init --from {quoted}{format}{options}"


def _recipe_for(source: Path) -> Path | None:
    """Return the first recipe in the workspace for the rows of ``source``, or ``None`` if there is none."""
    for file in sorted(Path("recipes").glob("*.toml")):
        with suppress(MlxtuneError):
            if load(file).source.resolve() == source.resolve():
                return file
    return None


def _next_verb(recipe: Path) -> str:
    """Return ``train`` if the recipe's base, or a run of it, was evaluated in this workspace, or else ``eval``."""
    name = load(recipe, []).name
    states = (run.state() for run in registry.list_runs(Path.cwd(), "eval"))
    return "train" if any(state.phase == "finished" and state.name == name for state in states) else "eval"


def _mute(path: Path, mute: str, unmute: str, reason: str) -> None:
    """Mute and unmute checks in the review of ``path``. Raise ``InputError`` for an unknown check or a missing reason."""
    from mlxtune.data.checks.registry import check_named, may_mute

    mute, unmute = (check_named(name) if name else "" for name in (mute, unmute))
    if reason and not mute:
        raise InputError("--reason requires --mute.", hint="Add --mute CHECK.")
    if mute and not reason.strip():
        raise InputError("A muted check needs a reason.", hint=f'Add --reason, such as: --mute {mute} --reason "our policy"')
    if mute and not may_mute(mute):
        raise InputError(f"{mute} cannot be muted, because its rows cannot be read.", hint="Leave them out with --fix.")
    if mute or unmute:
        with reviews.ReviewSession(path) as session:
            if mute:
                session.mute(mute, reason.strip())
            if unmute:
                session.unmute(unmute)


@app.command("stats")
def stats(source: SourceArgument, format: Format = "auto", map: Map = "", json: Json = False) -> None:
    """Show data statistics: size, lengths, balance, and variety."""
    from mlxtune.data.checks.report import report_json

    report = run_checks(source, *resolve_source(source, format, map))
    if json:
        whole = report_json(report)
        show_json({name: whole[name] for name in ("source", "read", "kept", "refused", "formats", "files", "facts", "next")})
    else:
        _show_statistics(report)


@app.command("split")
def split(
    source: SourceArgument,
    seed: Seed = None,
    holdout: Holdout = None,
    validation: Validation = None,
    group_by: GroupBy = None,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Split the rows into train, valid, and test, and record the split. Adding rows later does not move existing ones."""
    path, section = resolve_source(source, format, map, seed=seed, holdout=holdout, validation=validation, group_by=group_by)
    with progress_bar("reading") as update:
        rows = read_source(path, section.format, section.map)
        update("finding near-duplicates", 0.5)
        result = splits.split(rows, section)
    splits.record_splits(rows, section, result)
    by_tag = _count_tags(result)
    sealed = sum(row.hash in result.previously_sealed for row in result.test)
    file = splits.membership_path(path)
    if json:
        show_json({
            "train": len(result.train), "valid": len(result.valid), "test": len(result.test),
            "set_aside": [row.id for row in result.set_aside], "sealed": sealed, "left_out": rows.left_out,
            "edited": len(rows.edited), "seed": section.seed, "holdout": section.holdout, "validation": section.validation,
            "group_by": section.group_by, "tags": by_tag, "file": str(file),
        })  # fmt: skip
        return
    total = len(result.train) + len(result.valid) + len(result.test)
    print_heading(out, path.name, plural(total, "row"))
    table: list[list[Cell]] = [[("split", "faint"), ("rows", "faint"), "", *((tag, "faint") for tag in by_tag)]]
    for name in SPLIT_NAMES:
        count = len(getattr(result, name))
        cells = (f"{counts[name]:,}" for counts in by_tag.values())
        table.append([(name, "bold"), f"{count:,}", f"{count / max(total, 1):.1%}", *cells])
    print_columns(table, right=range(1, len(table[0])))
    for sentence in _split_notes(rows, result, sealed, total):
        info("  ", (sentence, "muted"))
    info(("✓ ", "bold success"), f"Recorded in {file.name}. Every row stays in its split unless [data] changes.")


def _count_tags(result: Splits) -> dict[str, dict[SplitName, int]]:
    """Count the rows in each split for the eight most frequent tags."""
    counts: dict[SplitName, Counter[str]] = {
        name: Counter(next(iter(row_tags(row)), "") for row in getattr(result, name)) for name in SPLIT_NAMES
    }
    total: Counter[str] = sum(counts.values(), Counter())
    return {tag: {name: counts[name][tag] for name in SPLIT_NAMES} for tag, _ in total.most_common(8) if tag}


def _split_notes(source: Source, result: Splits, sealed: int, total: int) -> list[str]:
    notes = []
    fraction = len(result.test) / max(1, total)
    low, high = USUAL_HOLDOUT
    if result.test and not low <= round(fraction, 2) <= high:
        notes.append(
            f"The test split is {fraction:.1%}. {low:.0%} to {high:.0%} is usual: a smaller one makes results imprecise, and a larger one leaves fewer rows to train on."
        )
    if source.left_out or source.edited:
        notes.append(f"The review left out {plural(source.left_out, 'row')} and edited {len(source.edited):,}.")
    if sealed:
        notes.append(
            f"{plural(sealed, 'test row')} can never be used for training, because an evaluation or an export has recorded them."
        )
    if result.set_aside:
        locations = ", ".join(str(row.location) for row in result.set_aside[:5])
        more = " …" if len(result.set_aside) > 5 else ""
        count = plural(len(result.set_aside), "new row")
        notes.append(f"Set aside {count} that nearly duplicate rows in different splits: {locations}{more}")
    return notes


@app.command("export")
def export(
    source: SourceArgument,
    to: Annotated[str, typer.Option("--to", help=f"The target format: {', '.join(exports.TARGETS)}.")],
    folder: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    pending: Annotated[bool, typer.Option("--pending", help="Also export undecided rows.")] = False,
    seed: Seed = None,
    holdout: Holdout = None,
    validation: Validation = None,
    group_by: GroupBy = None,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Write the accepted rows as train.jsonl, valid.jsonl, and test.jsonl with a manifest.

    From then on, the rows of the test split can never be used for training.
    """
    if to not in exports.TARGETS:
        raise InputError(f"Unknown export target {one_line(to, 30)}.", hint=f"Valid targets: {', '.join(exports.TARGETS)}.")
    path, section = resolve_source(source, format, map, seed=seed, holdout=holdout, validation=validation, group_by=group_by)
    with progress_bar("reading"):
        rows = read_source(path, section.format, section.map)
        result = exports.export(rows, section, to, folder, pending=pending)
    if json:
        left = {"set_aside": result.set_aside, "undecided": result.undecided}
        show_json({"folder": str(result.folder), "to": to, **result.counts, **left})
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
    show(("✓ ", "bold success"), f"Exported to {folder}: {counts}.")
    if result.undecided:
        info("  ", (f"{plural(result.undecided, 'undecided row')} left out; --pending exports them, too.", "muted"))
    if result.set_aside:
        info("  ", (f"{plural(result.set_aside, 'row')} set aside as near-duplicates of rows in different splits.", "muted"))
    info("  ", ("From now on, the rows of the test split can never be used for training.", "muted"))


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="FILE|ID", help="A file, a folder, or a Hub dataset.")],
    to: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.")],
    format: Format = "auto",
    map: Map = "",
    file: Annotated[str, typer.Option("--file", help="The file to import from a Hub dataset or a folder of Parquet files.")] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid rows.")] = False,
    json: Json = False,
) -> None:
    """Convert rows in any supported format to one file of chats, pairs, or texts, with their metadata."""
    with progress_bar(f"fetching {one_line(name, 60)}"):
        path = locate(name, file)
    _, section = resolve_source(path, format, map)
    result = import_rows(path, to, section.format, section.map, skip_bad=skip_bad)
    if json:
        bad = len(result.bad)
        show_json({"out": str(to), "rows": result.rows, "formats": result.formats, "left_out": bad, "notes": result.notes})
        return
    for note in result.notes:
        info(("  · ", "faint"), (note, "muted"))
    for error in result.bad[:5]:
        info(("  ! ", "bold warning"), error.message)
    left_out = f", {plural(len(result.bad), 'invalid row')} left out" if result.bad else ""
    show(("✓ ", "bold success"), f"Imported {plural(result.rows, 'row')} to {to} ({_format_counts(result.formats)}){left_out}.")


# The report in a terminal


def _show_report(report: CheckReport, fixed: FixResult | None, every: bool) -> None:
    print_heading(out, "Data", one_line(report.path.name, 40))
    _paragraph(words.verdict_text(report.verdict), _VERDICT_MARKS[report.verdict.outcome], "bold")
    formats = _format_counts(report.formats) or "none"
    _paragraph(f"{plural(report.read, 'row')} read = {report.kept:,} valid ({formats}) + {report.refused:,} invalid", style="muted")
    if review := words.review_text(len(report.left_out), report.edited_count):
        _paragraph(f"Review: {review}.", style="muted")
    for note in (note for file in report.files for note in file.notes):
        _paragraph(words.FILE_NOTES[note], style="muted")
    for severity, (title, style) in _SEVERITY_TITLES.items():
        findings = [finding for finding in report.findings if finding.severity == severity]
        if findings:
            accepted = f", {report.verdict.accepted:,} accepted" if severity == "warn" and report.verdict.accepted else ""
            print_section(title, plural(report.rows("block" if severity == "block" else "warn"), "row") + accepted)
            for id, same in groupby(findings, key=lambda finding: finding.check):
                _show_check(report, id, list(same), style, every)
    print_section("Statistics", words.TIERS[report.statistics.tier])
    for id, same in groupby((one for one in report.findings if one.severity == "note"), key=lambda one: one.check):
        notes = list(same)
        for finding in notes if not notes[0].rows else ():
            _paragraph(words.finding_text(finding), ("· ", "muted"))
        if notes[0].rows:
            where = report.locations[notes[0].rows[0]][0].place
            text = f"{words.check_title(id)}: {len(notes):,}. {where}: {words.finding_text(notes[0])} --also {id}"
            _paragraph(text, ("· ", "muted"))
    for muted in report.muted:
        _paragraph(
            f"{muted.check} is muted ({plural(muted.count, 'finding')}): {one_line(muted.reason, 200)}", ("○ ", "muted"), "muted"
        )
    for name, skip in report.skipped.items():
        _paragraph(f"{name} was not checked: {words.skip_text(skip)}", ("○ ", "muted"), "muted")
    if fixed:
        print_section("Fixed", one_line(str(fixed.out), 60))
        left_out = sum(not change.after for change in fixed.changes)
        changed = len(fixed.changes) - left_out
        sentence = f"{plural(fixed.rows, 'row')} written ({changed:,} changed), {left_out:,} left out. The source is unchanged."
        _paragraph(sentence, ("✓ ", "bold success"))
        for _, finding in fixed.by_hand[:EXAMPLES]:
            _show_finding(report, finding)
        if fixed.by_hand:
            count = plural(len(fixed.by_hand), "finding")
            reason = f"{count} must be fixed by hand: the value would remain elsewhere in the row, such as in another spelling."
            _paragraph(reason, ("! ", "bold warning"))
    show("")
    advice = words.improvement_text(report.improvement)
    if fixed and fixed.changes and not fixed.by_hand:
        left = fixed.rows_with_findings(report)
        still = f", in which {plural(left, 'row')} still {'has' if left == 1 else 'have'} findings" if left else ""
        advice = f"Use the fixed copy{still}."
    _paragraph(advice, ("Next  ", "bold primary"))


def _show_check(report: CheckReport, id: str, findings: list[Finding], style: str, every: bool) -> None:
    """Show a check with its count, its fix, and some of its findings."""
    from mlxtune.data.checks.registry import get_check

    check = get_check(id)
    fix = f"--fix: {check.fix.label}" if check.fix.safe else f"--also {id}" if check.fix.kind != "hand" else "by hand"
    title, count = words.check_title(id).ljust(40), f"{len(findings):>6,}"
    show("  ", (f"{check.glyph} ", style), (title, ""), (count, "bold"), "   ", (fix, "muted"))
    shown = findings if every else findings[:EXAMPLES]
    for finding in shown:
        _show_finding(report, finding)
    if len(findings) > len(shown):
        show("      ", (f"and {len(findings) - len(shown):,} more; use --all", "faint"))


def _show_finding(report: CheckReport, finding: Finding) -> None:
    if not finding.rows:
        _paragraph(words.finding_text(finding), indent=6)
        return
    location, id = report.locations[finding.rows[0]]
    file = f"{location.file.stem} " if len(report.files) > 1 else ""
    where = f"{file}{location.place}"
    others = [report.locations[index][0] for index in finding.rows[1:3]]
    related = ", ".join(f"{'' if one.file == location.file else one.file.stem + ' '}{one.place}" for one in others)
    sentence = f"{words.finding_text(finding)}{f' ({related})' if related else ''}"
    _paragraph(sentence, (f"{where}  {id[:6]:6}  " if id else f"{where}  ", "primary"), indent=6)
    for span in finding.spans[:1]:
        _paragraph(f"{span.part}: “{one_line(span.text, 70)}”", style="muted", indent=8, lines=1)


def _show_statistics(report: CheckReport) -> None:
    from mlxtune.data.checks.report import length_summary

    statistics, lengths = report.statistics, length_summary(report)
    print_heading(out, "Data", one_line(report.path.name, 40))
    groups, rows = plural(statistics.groups, "distinct prompt"), plural(statistics.rows, "row")
    _paragraph(f"{words.TIERS[statistics.tier].capitalize()}: {groups} in {rows}.", style="bold")
    print_facts([
        ("read", f"{report.read:,} = {report.kept:,} valid + {report.refused:,} invalid"),
        *([("review", review)] if (review := words.review_text(len(report.left_out), report.edited_count)) else []),
        ("formats", _format_counts(report.formats) or "none"),
        ("files", ", ".join(f"{one_line(file.path.name, 30)} {file.read:,}" for file in report.files)),
        ("openings", f"about {statistics.openings:,.0f} distinct three-word openings"),
    ])  # fmt: skip
    if report.lengths:
        show("")
        median, p95, longest = (f"{lengths[name]:,}" for name in ("median", "p95", "most"))
        print_heading(out, "Lengths", f"in {lengths['unit']}: median {median}, 95th percentile {p95}, max {longest}")
        _show_histogram(report)
    for key, counts in statistics.tags.items():
        print_section(one_line(key, 30), plural(len(counts), "value"))
        _show_bars({one_line(value, 24): count for value, count in list(counts.items())[:12]})
    show("")
    _paragraph(words.improvement_text(report.improvement), ("Next  ", "bold primary"))


def _show_histogram(report: CheckReport) -> None:
    """Show a histogram of row lengths on a logarithmic scale with about a dozen bars."""
    shortest, longest = min(report.lengths), max(report.lengths)
    octaves = math.log2(longest / shortest) if shortest else math.log2(longest + 1)
    per_octave = next((bars for bars in (8, 4, 2, 1) if octaves * bars <= 11), 1)
    counts = Counter(math.ceil(per_octave * math.log2(max(1, length))) for length in report.lengths)
    bars = range(min(counts), max(counts) + 1)
    _show_bars({f"up to {round(2 ** (number / per_octave)):,}": counts[number] for number in bars})
    limit = report.max_tokens
    if limit and (over := sum(length > limit for length in report.lengths)):
        _paragraph(f"{plural(over, 'row')} longer than the limit of {limit:,} tokens.", ("! ", "bold warning"))


def _show_bars(counts: Mapping[str, int]) -> None:
    most = max(counts.values(), default=1)
    width = max(10, min(40, _width() - 44))
    rows = [(name, (share_bar(count / max(1, most), width), "primary"), f"{count:,}") for name, count in counts.items()]
    print_columns(rows, right=(2,))


def _format_counts(formats: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in formats.items())


def _width() -> int:
    return max(40, min(out.width, 100)) - 2


def _paragraph(text: str, mark: Cell = "", style: str = "", *, indent: int = 2, lines: int = 0) -> None:
    """Show wrapped ``text`` with a hanging indent after ``mark``."""
    lead = mark if isinstance(mark, str) else mark[0]
    width = max(20, _width() - indent - len(lead))
    wrapped = textwrap.wrap(one_line(text), width, max_lines=lines or None, placeholder=" …")
    for number, part in enumerate(wrapped or [""]):
        show(" " * indent, mark if not number else " " * len(lead), (part, style))
