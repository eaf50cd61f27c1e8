"""``selftest``: are the scorers right, here and now?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.screen import Cell, columns, heading, out, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.selftest import checks

_SHOWN = 10


def selftest(
    suites: Annotated[
        Path | None,
        typer.Option("--suites", help="A folder with the suites jsontestsuite and jsonschema2020-12.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Check the scorers: known cases, planted rates, and the conformance suites where they are. Exit 1 when one is wrong."""
    found = list(checks(suites))
    wrong = sum(len(check.wrong) for check in found)
    if json:
        show_json({"holds": not wrong, "checks": [asdict(check) | {"holds": check.holds} for check in found]})
    else:
        heading(out, "Selftest", plural(sum(check.total for check in found), "case"))
        rows: list[list[Cell]] = []
        for check in found:
            mark: Cell = ("✓", "bold success") if check.holds else ("✗", "bold error")
            rows.append([mark, check.name, f"{check.right:,} of {check.total:,}", (check.note, "muted")])
        columns(rows, right=(2,))
        for check in found:
            for case in check.wrong[:_SHOWN]:
                show("  ", ("✗ ", "bold error"), f"{check.name}: {one_line(case, 160)}")
        if not suites:
            show("  ", ("Built-in cases only; --suites DIR adds the public conformance suites.", "muted"))
    if wrong:
        raise GateError(f"The scorers are wrong on {plural(wrong, 'case')}.")
