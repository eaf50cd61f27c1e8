"""Render a report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxtune.core.text import one_line, safe_text
from mlxtune.evaluation.drilldown import FailedRow
from mlxtune.evaluation.render.comparison_table import ReportTable, facts_table, rates_table, report_tables
from mlxtune.evaluation.render.wording import (
    contract_text,
    holdout_summary,
    in_words,
    nearest_row_text,
    other_answer,
    shown_note,
    summary,
)
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers.registry import metric_label

SHOWN = 6  # maximum number of failed rows to show
_LENGTH = 900  # maximum characters per text


def render_markdown(report: EvaluationReport, failures: Sequence[FailedRow]) -> str:
    """Return the whole report. Text from data or a model is escaped, or put in a fence that it cannot close."""
    tables = report_tables(report)
    after_rates = 1 + tables.index(rates_table(report))
    blocks = [
        f"# {plain(report.verdict)}",
        plain(summary(report)),
        plain(holdout_summary(report)),
        plain(contract_text(report)),
        *(block for table in tables[:after_rates] for block in table_blocks(table)),
        *_square(report),
        *(block for table in tables[after_rates:] for block in table_blocks(table)),
        *_failures(report, failures),
        *table_blocks(facts_table(report)),
        "Run `mlxtune verify report.json` to recompute every number here from the outputs stored next to it.",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def table_blocks(report_table: ReportTable) -> list[str]:
    """Return a table with its title and note as Markdown blocks."""
    visible = report_table.visible(1, bars=False)
    body = [[plain(cell.text) for cell in row] for row in visible.rows]
    note = visible.note[:1].upper() + visible.note[1:]
    return [
        f"## {plain(visible.title[0].upper() + visible.title[1:])}",
        f"{plain(note)}." if note else "",
        table([plain(column.label) for column in visible.columns], body, [column.right for column in visible.columns]),
    ]


def table(head: Sequence[str], body: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> str:
    """Return a Markdown table; by default, all columns except the first are right-aligned."""
    right = right or [False, *(True for _ in head[1:])]
    rule = ["---:" if is_right else "---" for is_right in right]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _square(report: EvaluationReport) -> list[str]:
    item = report.headline
    if item is None:
        return []
    first, second, paired = plain(item.first), plain(item.second), item.paired
    body = [
        [f"{first} passes", f"{paired.both} still pass", f"{paired.broken} broken"],
        [f"{first} fails", f"{paired.fixed} fixed", f"{paired.neither} still fail"],
    ]
    head = ["", f"{second} passes", f"{second} fails"]
    return [f"## Row by row: {metric_label(item.metric)}", table(head, body), plain(in_words(report, item))]


def _failures(report: EvaluationReport, failures: Sequence[FailedRow]) -> list[str]:
    if not failures:
        return []
    shown = failures[:SHOWN]
    blocks = ["## Failed rows", plain(f"{shown_note(len(shown), len(failures), report.subject.name)}.")]
    for failure in shown:
        state = ", passed before" if failure.broken else ""
        blocks += [
            f"### {failure.row.location.place.capitalize().replace(',', '')}{state}",
            plain(f"{failure.kind}: {failure.why}"),
        ]
        blocks += ["Prompt:", _fence(failure.row.question), f"{plain(report.subject.name)}:", _fence(failure.answer.output)]
        if other := other_answer(report, failure):
            blocks += [f"{plain(other[0])}:", _fence(other[1])]
        blocks.append("\n".join(f"- {plain(nearest_row_text(row))}" for row in failure.nearest))
    return blocks


def plain(text: str) -> str:
    """Return ``text`` on one line, with everything that Markdown or HTML would interpret escaped, and without links."""
    return re.sub(r"([\\`*_{}\[\]#|~<>&!@]|:(?=//)|(?<=www)\.)", r"\\\1", one_line(text))


def _fence(text: str) -> str:
    """Return ``text`` in a fence longer than any run of backticks in it."""
    text = safe_text(text, limit=_LENGTH)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
