"""``selftest``: check the scorers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import Json
from mlxtune.cli.output import draw, show_json
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.selftest.checks import run_checks
from mlxtune.present.blocks import ActionBlock, Fact, Facts, Heading, text

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
        found = [
            Fact(check.name, f"{check.right:,} of {check.total:,}", check.note, "success" if check.passed else "error")
            for check in results
        ]
        wrong_cases = [
            text(f"{check.name}: {one_line(case, 160)}", mark="error") for check in results for case in check.wrong[:_SHOWN]
        ]
        suite = () if suites else (ActionBlock("", "adds the public conformance suites", "--suites DIR"),)
        cases = plural(sum(check.total for check in results), "case")
        draw((Heading("Self-test", cases), Facts(tuple(found)), *wrong_cases, *suite))
    if wrong:
        raise GateError(f"The scorers fail {plural(wrong, 'case')}.")
