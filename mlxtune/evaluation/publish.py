"""A report, written for all who read it: machines, people in an editor, and someone's boss in a browser."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.files import write_text
from mlxtune.evaluation import markdown, page, report
from mlxtune.evaluation.failures import failures
from mlxtune.evaluation.report import PAGES, Report


def publish(made: Report, folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and, last, ``report.json`` with the hashes of both, into the evaluation's ``folder``.

    Raises ``InputError`` when the evidence is not there, ``MachineError`` on a full disk.
    """
    shown = failures(folder, made)
    for name, text in zip(PAGES, (markdown.render(made, shown), page.render(made, shown)), strict=True):
        write_text(folder / name, text)
    report.save(made, folder)
