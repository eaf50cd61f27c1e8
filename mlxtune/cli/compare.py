"""``compare``: compare two evaluations on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import Json
from mlxtune.cli.output import show, show_json
from mlxtune.cli.tables import print_table, print_verdict
from mlxtune.core.errors import GateError
from mlxtune.core.text import plural
from mlxtune.evaluation.compare import compare_evaluations, find_side
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.render.comparison_table import evaluation_comparison_table


def compare(
    first: Annotated[str, typer.Argument(help="An evaluation, or a run that has been evaluated.", show_default=False)],
    second: Annotated[
        str, typer.Argument(help="The candidate: the evaluation or run to test against the first.", show_default=False)
    ],
    gate: Annotated[bool, typer.Option("--gate", help="Exit 1 unless the second one is better.")] = False,
    json: Json = False,
) -> None:
    """Compare two evaluations row by row. Their rows, schema, template, and decoding must be the same."""
    result = compare_evaluations(find_side(Path.cwd(), first), find_side(Path.cwd(), second))
    if json:
        show_json(to_json(result))
    else:
        print_verdict(f"{plural(result.rows, 'held-out row')}, the same for both", result.headline.outcome, result.verdict)
        show("")
        print_table(evaluation_comparison_table(result))
    if gate and result.headline.outcome != "better":
        raise GateError(f"Gate failed: {result.verdict}")
