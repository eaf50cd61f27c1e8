"""``compare``: two evaluations on the same rows against each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.evaluate import contrasted
from mlxtune.cli.screen import Cell, heading, out, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import GateError
from mlxtune.core.text import plural
from mlxtune.evaluation.compare import contrast, side


def compare(
    first: Annotated[str, typer.Argument(help="An evaluation, or a run that was evaluated.", show_default=False)],
    second: Annotated[str, typer.Argument(help="The one that should be better.", show_default=False)],
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 unless the second is better.")] = False,
    json: Json = False,
) -> None:
    """Hold two evaluations against each other, row by row; refused unless rows, schema, template and decoding are the same."""
    found = contrast(side(Path.cwd(), first), side(Path.cwd(), second))
    if json:
        show_json(asdict(found))
    else:
        heading(out, "Verdict", f"{plural(found.rows, 'held-out row')}, the same for both")
        marks: dict[str, Cell] = {"better": ("✓ ", "bold success"), "worse": ("✗ ", "bold error")}
        show("  ", marks.get(found.headline.word, ("· ", "muted")), (found.verdict, "bold"))
        show("")
        contrasted(found)
    if gate and found.headline.word != "better":
        raise GateError(f"The gate says no: {found.verdict}")
