"""Write a report in all its forms."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.files import write_text
from mlxtune.evaluation import report
from mlxtune.evaluation.drilldown import failed_rows
from mlxtune.evaluation.render.html import render_html
from mlxtune.evaluation.render.markdown import render_markdown
from mlxtune.evaluation.report import PAGES, EvaluationReport


def publish(result: EvaluationReport, folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and finally ``report.json``, which holds the hashes of both, to ``folder``.

    Raises ``InputError`` if the stored answers are missing, and ``MachineError`` if the disk is full.
    """
    for name, text in render_pages(result, folder).items():
        write_text(folder / name, text)
    report.save(result, folder)


def render_pages(result: EvaluationReport, folder: Path) -> dict[str, str]:
    """Return the text of each page of a report. Raises ``InputError`` if the stored answers are missing."""
    failures = failed_rows(folder, result)
    return dict(zip(PAGES, (render_markdown(result, failures), render_html(result, failures)), strict=True))
