"""Render a report as one self-contained HTML page without scripts, fonts, or requests, which its content security policy forbids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

from jinja2 import Environment, Template
from markupsafe import Markup

import mlxtune
from mlxtune.core.text import safe_text
from mlxtune.evaluation.drilldown import FailedRow
from mlxtune.evaluation.render.comparison_table import facts_table, rates_table, report_tables
from mlxtune.evaluation.render.wording import (
    contract_text,
    holdout_summary,
    in_words,
    nearest_row_text,
    off_task_summary,
    other_answer,
    report_date,
    shown_note,
    summary,
    verdict_sentences,
)
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.blocks import Cell, IntervalBar
from mlxtune.present.labels import failure_name, outcome_mark, word

SHOWN = 6  # maximum number of failed rows to show
_LENGTH = 900  # maximum characters per text
_WIDTH = 1000  # width of a chart in its own coordinates


def render_html(report: EvaluationReport, failures: Sequence[FailedRow]) -> str:
    """Return the page. ``failures`` are all rows that fail in the report's subject; the first :data:`SHOWN` are shown."""
    facts, headline, off_task = report.facts, report.headline, report.off_task
    verdict = " ".join(filter(None, verdict_sentences(report.verdict)))
    tables, facts_rows = report_tables(report), facts_table(report)
    after_rates = 1 + tables.index(rates_table(report))
    outcome = f"{word(report.outcome).capitalize()}." if report.outcome else ""
    made_with = (Cell("made with", "muted"), Cell(f"mlxtune {mlxtune.__version__}"))
    return _template().render(
        report=report,
        style=Markup(files(__package__).joinpath("report.css").read_text("utf-8")),
        name=facts.get("name") or "evaluation",
        about=" · ".join(filter(None, [facts.get("name", ""), facts.get("base", ""), report_date(report)])),
        outcome=outcome,
        outcome_style=outcome_mark(report.outcome),
        verdict=verdict,
        title=outcome or verdict,
        summary=summary(report),
        holdout=holdout_summary(report),
        dropped=off_task_summary(off_task) if off_task and off_task.outcome == "dropped" else "",
        contract=contract_text(report),
        first_tables=tables[:after_rates],
        headline=headline,
        headline_label=metric_label(headline.metric) if headline else "",
        headline_text=in_words(report, headline) if headline else "",
        tables=tables[after_rates:],
        arm=report.subject.name,
        arm_style="primary" if headline else "",
        rows=[(failure, *_cut_at_span(failure), other_answer(report, failure)) for failure in failures[:SHOWN]],
        rows_note=shown_note(min(SHOWN, len(failures)), len(failures), report.subject.name),
        facts=replace(facts_rows, rows=(*facts_rows.rows, made_with)),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, finalize=_visible, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "position": _position,
        "extent": _extent,
        "cut": _cut,
        "describe": nearest_row_text,
        "failure_name": failure_name,
    }
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _visible(value: object) -> object:
    """Make control and bidirectional characters visible in every text that the template prints."""
    return safe_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _position(value: float, bar: IntervalBar) -> str:
    span = (bar.maximum - bar.minimum) or 1.0
    return f"{_WIDTH * max(0.0, min(1.0, (value - bar.minimum) / span)):.1f}"


def _extent(bar: IntervalBar) -> str:
    """Return the width of the interval's rectangle."""
    return f"{max(2.0, float(_position(bar.high, bar)) - float(_position(bar.low, bar))):.1f}"


def _cut_at_span(failure: FailedRow) -> tuple[str, str, str]:
    """Return the answer before, inside and after its failing part, if that part is within the displayed text."""
    text, (start, end) = failure.answer.output, failure.span or (0, 0)
    if failure.span is None or start >= _LENGTH:
        return _cut(text) or "(empty)", "", ""
    return text[:start], _cut(text[start:end]), _cut(text[end:]) if end < _LENGTH else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"
