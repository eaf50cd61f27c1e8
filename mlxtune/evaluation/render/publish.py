"""Write a report in all its forms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.evaluation import report
from mlxtune.evaluation.drilldown import failed_rows
from mlxtune.evaluation.render.html import render_html
from mlxtune.evaluation.render.markdown import render_markdown
from mlxtune.evaluation.report import PAGES, EvaluationReport
from mlxtune.evaluation.scorers.registry import LABELS


def publish(result: EvaluationReport, folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and finally ``report.json``, which holds the hashes of both, to ``folder``.

    Raises ``InputError`` if the stored answers are missing, and ``MachineError`` if the disk is full.
    """
    result = replace(result, facts={**result.facts, "renderer": renderer_hash()})
    for name, text in render_pages(result, folder).items():
        write_text(folder / name, text)
    report.save(result, folder)


def render_pages(result: EvaluationReport, folder: Path) -> dict[str, str]:
    """Return the text of each page of a report. Raises ``InputError`` if the stored answers are missing."""
    failures = failed_rows(folder, result)
    return dict(zip(PAGES, (render_markdown(result, failures), render_html(result, failures)), strict=True))


@cache
def renderer_hash() -> str:
    """Return a hash of this version's renderer and labels. Another version may render the same report differently."""
    folder = Path(__file__).parent
    others = (folder.parent / "drilldown.py", folder.parent / "off_task" / "result.py")
    code = sorted(path for path in (*others, *folder.iterdir()) if path.suffix in (".py", ".css", ".j2"))
    return sha256_json([LABELS, *([path.name, path.read_text(encoding="utf-8")] for path in code)])
