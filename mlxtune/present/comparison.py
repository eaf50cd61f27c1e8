"""Describe the comparison of two arms or of two evaluations, metric by metric."""

from collections.abc import Sequence

from mlxtune.core.text import plural
from mlxtune.evaluation.compare import EvaluationComparison
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.statistics.significance import needed_rows
from mlxtune.evaluation.verdict import Comparison, ScoreComparison
from mlxtune.present.blocks import Cell, Column, Document, Fact, Facts, Heading, IntervalBar, Table, figures, text
from mlxtune.present.labels import capital, change_text, outcome_cell, outcome_mark, p_value, word
from mlxtune.present.verdict import change_sentence


def comparison_document(result: EvaluationComparison, row: str = "held-out row") -> Document:
    """Describe which of two evaluations is better, and on which metrics."""
    item, compared = result.headline, result.headline.paired.total
    fewer = f"; compared on {compared:,}" if compared < result.rows else ""
    needed = (needed_rows(item.paired) or 0) if item.outcome == "cannot_tell" and not result.grouped else 0
    return (
        Heading("Verdict", f"{plural(result.rows, row)}, the same for both{fewer}"),
        text(comparison_verdict(result), "bold", outcome_mark(item.outcome)),
        *([Facts((Fact("rows needed", f"about {needed:,}", "to tell"),))] if needed > compared else []),
        evaluation_comparison_table(result),
    )


def comparison_verdict(result: EvaluationComparison) -> str:
    """Return the outcome of the headline metric, and its change."""
    return f"{capital(word(result.headline.outcome))}. {change_sentence(result.headline)}"


def evaluation_comparison_table(result: EvaluationComparison) -> Table:
    """Return the table of two evaluations that were compared with each other."""
    note = "same rows; Newcombe intervals; exact test over groups of rows, p after Holm"
    items = [(metric_label(item.metric), item) for item in result.comparisons]
    return comparison_table(f"{result.second} over {result.first}", note, items)


def comparison_table(title: str, note: str, items: Sequence[tuple[str, Comparison]]) -> Table:
    """Return a table of paired comparisons, each with its name: 2×2 table, change with interval, p-value, and outcome."""
    reach = max(max(abs(item.low), abs(item.high)) for _, item in items) or 1.0
    rows = []
    for name, item in items:
        paired = item.paired
        rows.append(
            (
                Cell(name),
                Cell(f"{paired.fixed:,}", "success" if paired.fixed else "muted"),
                Cell(f"{paired.broken:,}", "error" if paired.broken else "muted"),
                Cell(f"{paired.both:,}", "muted"),
                Cell(f"{paired.neither:,}", "muted"),
                Cell(bar=IntervalBar(item.low, item.change, item.high, -reach, reach)),
                Cell(change_text(item.low, item.change, item.high)),
                Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted"),
                outcome_cell(item.outcome),
            )
        )
    counts = *figures("fixed", "broken"), *figures("both", "neither", priority=1)
    columns = (Column(), *counts, Column(priority=2), *figures("change, points", "p"), Column())
    return Table(title, note, columns, tuple(rows))


def score_table(items: Sequence[ScoreComparison]) -> Table:
    """Return a table of a judge's scores: rows that rose, fell or stayed the same, change, p-value, and outcome."""
    rows = tuple(
        (
            Cell(item.metric),
            *(Cell(f"{count:,}") for count in (item.rose, item.fell, item.tied)),
            Cell(f"{item.change:+.2f} ({item.low:+.2f} to {item.high:+.2f})"),
            Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted"),
            outcome_cell(item.outcome),
        )
        for item in items
    )
    columns = (Column(), *figures("rose", "fell", "same", "change", "p"), Column())
    note = "sign test with Holm-adjusted p-values; t intervals over groups"
    return Table("Scales, 1 to 5", note, columns, rows)
