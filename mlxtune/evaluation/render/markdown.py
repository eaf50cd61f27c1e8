"""Render a report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluation.drilldown import FailedRow
from mlxtune.evaluation.render.comparison_table import facts_table, rates_table, report_tables
from mlxtune.evaluation.render.wording import (
    contract_text,
    holdout_summary,
    in_words,
    nearest_row_text,
    other_answer,
    shown_note,
    summary,
    verdict_text,
)
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.blocks import Table
from mlxtune.present.labels import failure_name
from mlxtune.present.markdown import fence, grid, plain

SHOWN = 6  # maximum number of failed rows to show


def render_markdown(report: EvaluationReport, failures: Sequence[FailedRow]) -> str:
    """Return the whole report. Text from data or a model is escaped, or put in a fence that it cannot close."""
    tables = report_tables(report)
    after_rates = 1 + tables.index(rates_table(report))
    blocks = [
        f"# {plain(verdict_text(report.verdict))}",
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


def table_blocks(report_table: Table) -> list[str]:
    """Return a table with its title and note as Markdown blocks."""
    visible = report_table.visible(1, bars=False)
    body = [[plain(cell.text) for cell in row] for row in visible.rows]
    note = visible.note[:1].upper() + visible.note[1:]
    return [
        f"## {plain(visible.title[0].upper() + visible.title[1:])}",
        f"{plain(note)}." if note else "",
        grid([plain(column.label) for column in visible.columns], body, [column.right for column in visible.columns]),
    ]


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
    return [f"## Row by row: {metric_label(item.metric)}", grid(head, body), plain(in_words(report, item))]


def _failures(report: EvaluationReport, failures: Sequence[FailedRow]) -> list[str]:
    if not failures:
        return []
    shown = failures[:SHOWN]
    blocks = ["## Failed rows", plain(f"{shown_note(len(shown), len(failures), report.subject.name)}.")]
    for failure in shown:
        state = ", passed before" if failure.broken else ""
        blocks += [
            f"### {failure.row.location.place.capitalize().replace(',', '')}{state}",
            plain(f"{failure_name(failure.kind)}: {failure.detail}"),
        ]
        blocks += ["Prompt:", fence(failure.row.question), f"{plain(report.subject.name)}:", fence(failure.answer.output)]
        if other := other_answer(report, failure):
            blocks += [f"{plain(other[0])}:", fence(other[1])]
        blocks.append("\n".join(f"- {plain(nearest_row_text(row))}" for row in failure.nearest))
    return blocks
