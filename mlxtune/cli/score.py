"""``score``: outputs of any origin against a contract."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.evaluate import classes, figures
from mlxtune.cli.screen import columns, heading, out, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import InputError
from mlxtune.core.text import plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.contract import LABELS, Contract
from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer, load


def score(
    outputs: Annotated[
        Path,
        typer.Argument(
            help='JSON lines, each {"output"}, maybe "id", "reference", "prompt", "ended"; or a folder with an output a file.',
            show_default=False,
        ),
    ],
    schema: Annotated[Path | None, typer.Option("--schema", help="A JSON Schema file.")] = None,
    disclaimer: Annotated[list[str] | None, typer.Option("--disclaimer", help="A sentence that must be there. Repeatable.")] = None,
    forbid: Annotated[list[str] | None, typer.Option("--forbid", help="A phrase that must not be there. Repeatable.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A recipe: its contract instead of these options.")] = None,
    json: Json = False,
) -> None:
    """Score outputs of any origin: JSON, schema, disclaimers, forbidden phrases, length, likeness to a reference."""
    for option, phrases in (("--disclaimer", disclaimer), ("--forbid", forbid)):
        if not all(phrase.strip() for phrase in phrases or []):
            raise InputError(f"{option} is empty.")
    if recipe and (schema or disclaimer or forbid):
        raise InputError("--recipe brings a whole contract.", mend="Leave out --schema, --disclaimer and --forbid.")
    rows = _folder(outputs) if outputs.is_dir() else _lines(outputs)
    if recipe:
        contract = Contract.of(load(recipe))
    else:
        contract = Contract(
            Schema.read(schema) if schema else None,
            [Disclaimer(text) for text in disclaimer or []],
            forbid or [],
            reference=("exact", "fields"),
        )
    scored = [contract.score(answer) for _, answer in rows]
    rates = reports.rates(scored)
    if json:
        scores = [{"id": name, **_told(row, contract.asked)} for (name, _), row in zip(rows, scored, strict=True)]
        show_json({"rows": len(rows), "rates": [asdict(rate) | {"share": rate.share} for rate in rates], "scores": scores})
        return
    heading(out, "Score", plural(len(rows), "output"))
    columns([[LABELS[rate.metric], *figures(rate, "primary"), (classes(rate), "muted")] for rate in rates], right=(2,))


def _told(scores: dict[str, Score], asked: set[str]) -> dict[str, Any]:
    """One output in JSON: what it fails of the contract and why, and how it did where the contract does not ask."""
    return {
        "failed": {name: [score.kind, score.why] for name, score in scores.items() if name in asked and not score.holds},
        "observed": {
            name: score.holds if score.value is None else score.value for name, score in scores.items() if name not in asked
        },
    }


def _folder(path: Path) -> list[tuple[Any, Answer]]:
    """Each file of a folder as an output. Bytes that are no UTF-8 are kept as half surrogates, and scored so."""
    try:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        rows = [(file.name, Answer(file.read_bytes().decode("utf-8", "surrogateescape"))) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise InputError(f"{path} has no outputs.")
    return rows


def _lines(path: Path) -> list[tuple[Any, Answer]]:
    """Each line's output under its ``id``, or under its line's number where no line has an id: a few that had one could be mistaken."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: U+2028 may stand in a JSON string
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    rows: list[tuple[Any, Answer]] = []
    named: bool | None = None
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = jsonlib.loads(text)
            optional = {name: row[name] for name in ("ended", "reference", "prompt") if name in row}
            answer = Answer(row["output"], **optional)
            good = all(isinstance(value, str) for value in (answer.output, *optional.values()))
        except (ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good:
            raise InputError(f'{path}, line {number}: not of the form {{"output": "…"}}.')
        if named not in (None, "id" in row):
            raise InputError(
                f"{path}, line {number}: some lines have an id and some have none.", mend="Give each line one, or none."
            )
        named = "id" in row
        rows.append((row.get("id", number), answer))
    if not rows:
        raise InputError(f"{path} has no outputs.")
    return rows
