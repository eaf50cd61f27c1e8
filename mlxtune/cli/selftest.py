"""``selftest``: check the scorers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import Json
from mlxtune.cli.output import Cell, out, print_columns, show, show_json
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.selftest.checks import run_checks
from mlxtune.present.terminal import print_heading

_SHOWN = 10


def selftest(
    suites: Annotated[
        Path | None, typer.Option("--suites", help="A folder with the jsontestsuite and jsonschema2020-12 suites.")
    ] = None,
    json: Json = False,
) -> None:
    """Check the scorers against known cases and the public conformance suites. Exits 1 if any case fails."""
    results = list(run_checks(suites))
    wrong = sum(len(check.wrong) for check in results)
    if json:
        show_json({"holds": not wrong, "checks": [asdict(check) | {"holds": check.passed} for check in results]})
    else:
        print_heading(out, "Self-test", plural(sum(check.total for check in results), "case"))
        rows: list[list[Cell]] = []
        for check in results:
            mark: Cell = ("✓", "bold success") if check.passed else ("✗", "bold error")
            rows.append([mark, check.name, f"{check.right:,} of {check.total:,}", (check.note, "muted")])
        print_columns(rows, right=(2,))
        for check in results:
            for case in check.wrong[:_SHOWN]:
                show("  ", ("✗ ", "bold error"), f"{check.name}: {one_line(case, 160)}")
        if not suites:
            show("  ", ("Only built-in cases were checked. Use --suites DIR to add the public conformance suites.", "muted"))
    if wrong:
        raise GateError(f"The scorers fail {plural(wrong, 'case')}.")
