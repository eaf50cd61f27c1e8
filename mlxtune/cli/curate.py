"""``data split``, ``data export`` and ``data import``: rows in shares, out to a trainer, and in from anywhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mlxtune.cli.screen import Cell, bar, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import DataError, InputError
from mlxtune.core.text import one_line, plural
from mlxtune.data import export as exports
from mlxtune.data import membership
from mlxtune.data import split as splits
from mlxtune.data.decisions import tags
from mlxtune.data.formats import FORMATS
from mlxtune.data.formats import columns as parse_map
from mlxtune.data.membership import SHARES, Share
from mlxtune.data.source import read_source
from mlxtune.data.split import Split
from mlxtune.data.take import find, take
from mlxtune.recipe import DataSection, load

USUAL = (0.10, 0.20)  # what a test share is of all rows

Where = Annotated[Path, typer.Argument(metavar="SRC", help="A file or folder of rows, or a recipe.", show_default=False)]
Format = Annotated[str, typer.Option("--format", help=f"How the rows are written: auto, {', '.join(FORMATS)}.")]
Map = Annotated[str, typer.Option("--map", help="Which column is what: prompt=question,completion=answer", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="The seed of the draws.", show_default=False)]
Holdout = Annotated[float | None, typer.Option("--holdout", help="The test share.", min=0.0, max=0.9, show_default=False)]
Validation = Annotated[
    float | None, typer.Option("--validation", help="The validation share.", min=0.0, max=0.9, show_default=False)
]
GroupBy = Annotated[str | None, typer.Option("--group-by", help="A key of the metadata that no split parts.", show_default=False)]


class Asked(NamedTuple):
    """A source, and how it is read and divided."""

    path: Path
    data: DataSection


def asked(where: Path, format: str = "auto", map: str = "", **shares: Any) -> Asked:
    """What ``where`` names: read and divided as a recipe says, or as it was recorded last, but for the options.

    Raises ``InputError`` for what cannot be used.
    """
    if format != "auto" and format not in FORMATS:
        raise InputError(f"There is no format {one_line(format, 30)}.", mend=f"There are auto, {', '.join(FORMATS)}.")
    mend = "Name a file or folder of rows, or a recipe."
    if where.suffix == ".toml":
        recipe = load(where, [])
        path, data, mend = recipe.source, recipe.data, f"Check data.source in {where}; it is relative to the recipe."
    else:
        path, data = where, DataSection(str(where))
        if recorded := membership.load(path).splits:
            data = replace(data, **vars(list(recorded)[-1]))
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that is too long
        raise DataError(f"There is no data at {path}.", mend=mend)
    given = {name: value for name, value in shares.items() if value is not None}
    if format != "auto":
        given["format"] = format
    if map:
        given["map"] = parse_map(map)
    return Asked(path, replace(data, **given))


def split(
    where: Where,
    seed: Seed = None,
    holdout: Holdout = None,
    validation: Validation = None,
    group_by: GroupBy = None,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Divide the rows into train, valid and test, and write down which stands where: rows that are added later move none."""
    path, data = asked(where, format, map, seed=seed, holdout=holdout, validation=validation, group_by=group_by)
    with bar("reading") as update:
        source = read_source(path, data.format, data.map)
        update("looking for twins", 0.5)
        shares = splits.split(source, data)
    splits.record(source, data, shares)
    by_tag = _by_tag(shares)
    facts: dict[str, Any] = {
        "train": len(shares.train),
        "valid": len(shares.valid),
        "test": len(shares.test),
        "set_aside": [row.id for row in shares.set_aside],
        "sealed": sum(row.hash in shares.kept for row in shares.test),
        "left_out": source.left_out,
        "edited": len(source.edited),
        "seed": data.seed,
        "holdout": data.holdout,
        "validation": data.validation,
        "group_by": data.group_by,
        "tags": by_tag,
        "file": str(membership.membership_path(path)),
    }
    if json:
        show_json(facts)
        return
    total = sum(facts[part] for part in SHARES)
    heading(out, path.name, plural(total, "row"))
    head: list[Cell] = [("share", "faint"), ("rows", "faint"), ("", "")]
    rows: list[list[Cell]] = [head + [(tag, "faint") for tag in by_tag]]
    for part in SHARES:
        rows.append(
            [
                (part, "bold"),
                f"{facts[part]:,}",
                f"{facts[part] / max(total, 1):.1%}",
                *(f"{held[part]:,}" for held in by_tag.values()),
            ]
        )
    columns(rows, right=range(1, len(rows[0])))
    for sentence in _told(shares, facts):
        say("  ", (sentence, "muted"))
    say(("✓ ", "bold success"), f"{Path(facts['file']).name} keeps every row where it is.")


def _by_tag(shares: Split) -> dict[str, dict[Share, int]]:
    """The rows in each share of the eight most frequent tags that the split goes by."""
    counts = {part: Counter(next(iter(tags(row)), "") for row in getattr(shares, part)) for part in SHARES}
    total: Counter[str] = sum(counts.values(), Counter())
    return {tag: {part: counts[part][tag] for part in SHARES} for tag, _ in total.most_common(8) if tag}


def _told(shares: Split, facts: Mapping[str, Any]) -> list[str]:
    """What is worth a sentence about a split."""
    said = []
    share = len(shares.test) / max(1, len(shares.train) + len(shares.valid) + len(shares.test))
    if shares.test and not USUAL[0] <= round(share, 2) <= USUAL[1]:
        said.append(
            f"The test share is {share:.1%}; {USUAL[0]:.0%} to {USUAL[1]:.0%} is usual: less proves little, more trains on little."
        )
    if facts["left_out"] or facts["edited"]:
        said.append(f"The review left {plural(facts['left_out'], 'row')} out and edited {facts['edited']:,}.")
    if facts["sealed"]:
        said.append(
            f"{plural(facts['sealed'], 'row')} of the test share {'is' if facts['sealed'] == 1 else 'are'} sealed: an evaluation or an export used them."
        )
    if shares.set_aside:
        named = ", ".join(str(row.place) for row in shares.set_aside[:5])
        said.append(
            f"{plural(len(shares.set_aside), 'new row')} set aside, twins of rows in different shares: {named}{' …' if len(shares.set_aside) > 5 else ''}"
        )
    return said


def export(
    where: Where,
    to: Annotated[str, typer.Option("--to", help=f"Whose format: {', '.join(exports.TARGETS)}.", show_default=False)],
    folder: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    pending: Annotated[bool, typer.Option("--pending", help="Export the undecided rows too.")] = False,
    seed: Seed = None,
    holdout: Holdout = None,
    validation: Validation = None,
    group_by: GroupBy = None,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Write the accepted rows as train, valid and test.jsonl with a manifest, and seal the test share: it may never train."""
    if to not in exports.TARGETS:
        raise InputError(f"There is no export to {one_line(to, 30)}.", mend=f"There are {', '.join(exports.TARGETS)}.")
    path, data = asked(where, format, map, seed=seed, holdout=holdout, validation=validation, group_by=group_by)
    with bar("reading"):
        source = read_source(path, data.format, data.map)
        made = exports.export(source, data, to, folder, pending=pending)
    if json:
        show_json({"folder": str(made.folder), "to": to, **made.counts, "set_aside": made.set_aside})
        return
    counts = ", ".join(f"{count:,} {part}" for part, count in made.counts.items())
    show(("✓ ", "bold success"), f"{folder} has {counts}.")
    if made.set_aside:
        say("  ", (f"{plural(made.set_aside, 'row')} set aside: twins of rows in different shares.", "muted"))
    say("  ", ("The test share is sealed: it may never train.", "muted"))


def import_(
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A file or folder, or a data set of the hub.", show_default=False)],
    to: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.", show_default=False)],
    format: Format = "auto",
    map: Map = "",
    file: Annotated[str, typer.Option("--file", help="Which file of a data set of the hub.", show_default=False)] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave rows out that cannot be used.")] = False,
    json: Json = False,
) -> None:
    """Write rows of any format as one file in ours: chats, pairs or texts, with their metadata."""
    with bar(f"fetching {one_line(what, 60)}"):
        path = find(what, file)
    _, data = asked(path, format, map)
    made = take(path, to, data.format, data.map, skip_bad=skip_bad)
    if json:
        show_json({"out": str(to), "rows": made.rows, "formats": made.formats, "left_out": len(made.bad), "notes": made.notes})
        return
    for note in made.notes:
        say(("  · ", "faint"), (note, "muted"))
    for error in made.bad[:5]:
        say(("  ! ", "bold warning"), error.message)
    formats = ", ".join(f"{count:,} {name}" for name, count in made.formats.items())
    left = f", {plural(len(made.bad), 'bad row')} left out" if made.bad else ""
    show(("✓ ", "bold success"), f"{to} has {plural(made.rows, 'row')} ({formats}){left}.")
