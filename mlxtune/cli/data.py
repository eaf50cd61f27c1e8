"""``data``: check, split, import, and export rows. ``data review`` is in ``review.py``, ``data generate`` in ``generate.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.advice.next_step import after_check
from mlxtune.cli.options import Json, argument, option, with_option_groups
from mlxtune.cli.output import draw, progress_bar, show_json, show_result
from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import similar_file
from mlxtune.core.text import one_line
from mlxtune.data import export as exports
from mlxtune.data import review as reviews
from mlxtune.data import split as splits
from mlxtune.data.column_map import column_use, named_columns
from mlxtune.data.importer import import_rows, locate
from mlxtune.data.readers.formats import FORMATS, check_format, parse_mapping
from mlxtune.data.source import read_source
from mlxtune.data.source_files import source_files
from mlxtune.data.split import SPLIT_NAMES, SplitSettings
from mlxtune.present.check import NAME_THE_COLUMNS, check_document, statistics_document
from mlxtune.present.data_files import export_document, import_document, split_document
from mlxtune.present.next_step import step_action
from mlxtune.recipe import DataSection, load
from mlxtune.recipe.schema import hub_copy
from mlxtune.workspace.index import WorkspaceIndex

if TYPE_CHECKING:  # the checks import numpy
    from mlxtune.data.checks.base import Finding
    from mlxtune.data.checks.fixes import FixResult
    from mlxtune.data.checks.report import CheckReport

SourceArgument = Annotated[Path, argument("A file or folder with rows, or a recipe.", metavar="SRC")]
Format = Annotated[str, option("--format", f"The format of the rows: auto, {', '.join(FORMATS)}.")]
Map = Annotated[list[str] | None, option("--map", "Columns, such as prompt=question,completion=answer.", metavar="KEY=COLUMN")]

app = typer.Typer(help="Check, split, review, import, and export data.", no_args_is_help=True)


def resolve_source(source: Path, format: str = "auto", map: list[str] | None = None, **settings: Any) -> tuple[Path, DataSection]:
    """Return the path of a source, and how to read and split it according to its recipe or last split and the options.

    Raise ``InputError`` if the source does not exist or an option is invalid.
    """
    check_format(format)
    hint = "Specify a file or folder with rows, or a recipe."
    if source.suffix == ".toml":
        recipe = load(source, [])
        path, section, hint = recipe.source, recipe.data, f"Check data.source in {source}; it is relative to the recipe."
    else:
        source = hub_copy(Path.cwd(), str(source)) or source
        path, section = source, splits.with_recorded_settings(source, DataSection(str(source)))
        section = section if map or format != "auto" else named_columns(source, section)
    source_files(path)  # fetches a dataset
    if not os.path.exists(path):  # unlike Path.exists, does not fail if the name is too long
        of_recipe = similar_file(source, Path("recipes")) if source.suffix != ".toml" else ""
        raise DataError(f"There is no data at {path}.", hint=similar_file(Path(path)) or of_recipe or hint)
    given = {name: value for name, value in settings.items() if value is not None}
    if format != "auto":
        given["format"] = format
    if map:
        given["map"] = parse_mapping(",".join(map))
    return path, replace(section, **given)


def run_checks(
    source: Path, path: Path, section: DataSection, *, fetch: bool = True, found: Sequence[Finding] | None = ()
) -> CheckReport:
    """Check the source at ``path``, with the contract if ``source`` is a recipe. Raise ``InputError`` if it is invalid.

    The recipe's model is downloaded for its tokenizer unless ``fetch`` is false.
    """
    from mlxtune.evaluation.check_process import check_source

    recipe = replace(load(source, []), data=section) if source.suffix == ".toml" else None
    with progress_bar(f"reading {one_line(path.name, 40)}") as update:
        return check_source(path, section, recipe, update, fetch=fetch, found=found)


@dataclass(frozen=True)
class SplitOptions:
    seed: Annotated[int | None, option("--seed", "Random seed.")] = None
    holdout: Annotated[float | None, option("--holdout", "Fraction held out.", min=0.0, max=0.9)] = None
    validation: Annotated[float | None, option("--validation", "Fraction for validation.", min=0.0, max=0.9)] = None
    group_by: Annotated[str | None, option("--group-by", "A metadata key. Rows with the same value stay together.")] = None


@dataclass(frozen=True)
class MuteOptions:
    mute: Annotated[str, option("--mute", "Stop reporting this check; requires --reason.", metavar="CHECK")] = ""
    reason: Annotated[str, option("--reason", "Why, with --mute.")] = ""
    unmute: Annotated[str, option("--unmute", "Report this check again.", metavar="CHECK")] = ""


@app.command("check")
@with_option_groups
def check(
    source: SourceArgument,
    muting: MuteOptions,
    fix: Annotated[bool, option("--fix", "Record all safe fixes in the review.")] = False,
    also: Annotated[list[str] | None, option("--also", "With --fix: apply this check's fix, too.", metavar="CHECK")] = None,
    base: Annotated[bool, option("--base", "Also find answers that the recipe's base finds unlikely after their prompts.")] = False,
    format: Format = "auto",
    map: Map = None,
    every: Annotated[bool, option("--all", "Show every finding.")] = False,
    json: Json = False,
) -> None:
    """Find problems in the rows and show how to fix them. Exits 1 if rows should not be trained on as they are.

    Edits made in review are applied before the rows are checked.
    """
    from mlxtune.data.checks.fixes import select_fixes
    from mlxtune.data.checks.report import report_json
    from mlxtune.evaluation.check_process import find_mismatches

    if also and not fix:
        raise InputError("--also requires --fix.")
    if base and source.suffix != ".toml":
        raise InputError("--base requires a recipe.")
    path, section = resolve_source(source, format, map)
    select_fixes((), also or ())
    _mute(path, muting.mute, muting.unmute, muting.reason)
    found: Sequence[Finding] | None = ()
    if base:
        with progress_bar("asking the base") as update:
            found = find_mismatches(source, section, update)
    report = run_checks(source, path, section, found=found)
    fixed = None
    if fix:
        fixed = _record_fixes(path, section, report, also or ())
        report = run_checks(source, path, section, found=found)
    if json:
        show_json(report_json(report, fixed.to_json() if fixed else None))
    else:
        step = after_check(source, section, report, WorkspaceIndex(Path.cwd()).read())
        command = step_action(step).command if step else ""
        draw(check_document(report, fixed, every=every, command=command))
    if any(finding.severity == "block" for finding in report.findings):
        raise typer.Exit(1)


def _record_fixes(path: Path, section: DataSection, report: CheckReport, also: Sequence[str]) -> FixResult:
    """Record the fixes in the review. Raise ``DataError`` if no row can be read."""
    from mlxtune.data.browser import SourceBrowser
    from mlxtune.data.checks.fixes import record_fixes

    if not report.kept:
        raise DataError(f"{one_line(path.name, 60)} has no row that can be read, so nothing can be fixed.", hint=NAME_THE_COLUMNS)
    with SourceBrowser(path, section.format, section.map) as browser, reviews.ReviewSession(path) as session:
        for _ in browser.scan():
            pass
        browser.apply_review(session.state)
        return record_fixes(browser, session, report.findings, also)


def _mute(path: Path, mute: str, unmute: str, reason: str) -> None:
    """Mute and unmute checks in the review of ``path``. Raise ``InputError`` for an unknown check or a missing reason."""
    from mlxtune.data.checks.registry import check_named, may_mute

    mute, unmute = (check_named(name) if name else "" for name in (mute, unmute))
    if reason and not mute:
        raise InputError("--reason requires --mute.")
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
def stats(source: SourceArgument, format: Format = "auto", map: Map = None, json: Json = False) -> None:
    """Show data statistics: size, lengths, balance, and variety."""
    from mlxtune.data.checks.report import report_json

    report = run_checks(source, *resolve_source(source, format, map))
    whole = report_json(report)
    facts = {name: whole[name] for name in ("source", "read", "kept", "refused", "formats", "files", "facts", "next")}
    show_result(facts, statistics_document(report), json=json)


@app.command("split")
@with_option_groups
def split(source: SourceArgument, splitting: SplitOptions, format: Format = "auto", map: Map = None, json: Json = False) -> None:
    """Split the rows into train, valid, and test, and record the split. Adding rows later does not move existing ones."""
    path, section = resolve_source(source, format, map, **vars(splitting))
    with progress_bar("reading") as update:
        rows = read_source(path, section)
        update("finding near-duplicates", 0.5)
        result = splits.split(rows, section)
    splits.record_splits(rows, section, result)
    file = splits.membership_path(path)
    facts: dict[str, Any] = {
        **{name: len(getattr(result, name)) for name in SPLIT_NAMES}, "set_aside": [row.id for row in result.set_aside],
        "sealed": result.sealed_count, "left_out": rows.left_out, "edited": len(rows.edited), **vars(SplitSettings.from_section(section)),
        "tags": result.tags, "file": str(file),
    }  # fmt: skip
    show_result(facts, split_document(rows, result, file.name), json=json)


@app.command("export")
@with_option_groups
def export(
    source: SourceArgument,
    to: Annotated[str, option("--to", f"Target format: {', '.join(exports.LAYOUTS)}.")],
    folder: Annotated[Path, option("--out", "Output folder.")],
    splitting: SplitOptions,
    format: Format = "auto",
    map: Map = None,
    pending: Annotated[bool, option("--pending", "Include undecided rows.")] = False,
    json: Json = False,
) -> None:
    """Write the accepted rows as train.jsonl, valid.jsonl, and test.jsonl with a manifest.

    From then on, the rows of the test split can never be used for training.
    """
    if to not in exports.LAYOUTS:
        raise InputError(f"Unknown export target {one_line(to, 30)}.", hint=f"Valid targets: {', '.join(exports.LAYOUTS)}.")
    path, section = resolve_source(source, format, map, **vars(splitting))
    with progress_bar("reading"):
        rows = read_source(path, section)
        result = exports.export(rows, section, to, folder, pending=pending)
    left = {"set_aside": result.set_aside, "undecided": result.undecided}
    show_result({"folder": str(result.folder), "to": to, **result.counts, **left}, export_document(result), json=json)


@app.command("import")
def import_(
    name: Annotated[str, argument("A file, a folder, or a Hub dataset.", metavar="FILE|ID")],
    to: Annotated[Path, option("--out", "Output file (.jsonl).")],
    format: Format = "auto",
    map: Map = None,
    file: Annotated[str, option("--file", "The file to import from a Hub dataset or a folder of Parquet files.")] = "",
    skip_bad: Annotated[bool, option("--skip-bad", "Skip invalid rows.")] = False,
    each_turn: Annotated[bool, option("--each-turn", "Write one row for every answer of a conversation.")] = False,
    json: Json = False,
) -> None:
    """Convert rows in any supported format to one file of chats, pairs, or texts, with their metadata."""
    with progress_bar(f"fetching {one_line(name, 60)}"):
        path = locate(name, file)
    _, section = resolve_source(path, format, map)
    result = import_rows(path, to, section.format, section.map, skip_bad=skip_bad, each_turn=each_turn)
    if json:
        facts = {"out": str(to), "rows": result.rows, "formats": result.formats, "left_out": len(result.bad)}
        show_json({**facts, "notes": result.notes, "transcripts": result.transcripts})
    else:
        draw(import_document(result, column_use(path, section.map, section.format)))
