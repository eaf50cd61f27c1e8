"""``verify``: compute a report's numbers again from the outputs that it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.screen import show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation import verify as verifying
from mlxtune.evaluation.gate import reservation
from mlxtune.runs import registry

_SHOWN = 20


def verify(
    report: Annotated[
        str, typer.Argument(help="A report.json, or an evaluation: its folder, id, or last.", metavar="REPORT")
    ] = "last",
    json: Json = False,
) -> None:
    """Compute every number of a report again, offline, from the outputs kept beside it. Exit 1 when one differs."""
    path = Path(report)
    folder = path.parent if path.name == reports.FILE and path.is_file() else registry.find(Path.cwd(), report, "eval").folder
    found = verifying.verify(folder)
    if json:
        show_json({"holds": not found, "folder": str(folder), "differences": found})
    else:
        for difference in found[:_SHOWN]:
            show(("  ✗ ", "bold error"), one_line(difference, 240))
        if len(found) > _SHOWN:
            show("    ", (f"and {plural(len(found) - _SHOWN, 'more difference')}; --json lists all", "muted"))
    if found:
        raise GateError(f"The report does not hold: {plural(len(found), 'difference')}.")
    if not json:
        made = reports.load(folder)
        rates, rows = sum(len(arm.rates) for arm in made.arms), made.facts["rows"]
        told = f"{plural(rates, 'rate')} and {plural(len(made.comparisons), 'comparison')} of {plural(rows, 'row')}"
        show(("  ✓ ", "bold success"), "The report holds: ", f"{told} come out the same again.")
        show("    ", (one_line(made.verdict), "muted"))
        if held := reservation(made):
            show(("  ! ", "bold warning"), f"The adapter is not to be promoted: {held}.")
