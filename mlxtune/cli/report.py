"""``report``: print an evaluation's report, or open it in the browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.evaluate import show_report
from mlxtune.cli.options import Json, ReportName
from mlxtune.cli.output import show, show_json
from mlxtune.core.json_fields import to_json
from mlxtune.evaluation import report as reports


def report(
    which: ReportName = "last",
    open_page: Annotated[bool, typer.Option("--open", help="Open the HTML report in the browser, and print its path.")] = False,
    json: Json = False,
) -> None:
    """Print an evaluation's report, or open its HTML page, which can be printed and read on a phone."""
    folder = reports.find(Path.cwd(), which)
    loaded = reports.load(folder)
    page = (folder / reports.PAGES[1]).resolve()
    if open_page:
        webbrowser.open(page.as_uri())
    if json:
        show_json({"folder": str(folder), **to_json(loaded)})
    elif open_page:
        show(str(page))
    else:
        show_report(loaded, folder)
