"""Tables of a blind session's result."""

from __future__ import annotations

from mlxtune.core.text import plural
from mlxtune.evaluation.blind.votes import QUESTIONS, BlindResult
from mlxtune.evaluation.render.comparison_table import key_value_table
from mlxtune.present.blocks import Cell, Column, IntervalBar, Table
from mlxtune.present.labels import outcome_cell, p_value


def votes_table(result: BlindResult) -> Table:
    """Return a table of the votes on each question."""
    rows = []
    for tally in result.tallies:
        decided = tally.wins + tally.losses
        share = f"{100 * tally.share:.0f}% ({100 * tally.low:.0f} to {100 * tally.high:.0f})" if decided else "–"
        rows.append(
            (
                Cell(QUESTIONS[tally.question]),
                Cell(f"{tally.wins:,}", "primary"),
                Cell(f"{tally.losses:,}"),
                Cell(f"{tally.ties:,}", "muted"),
                Cell(bar=IntervalBar(tally.low, tally.share, tally.high) if decided else None),
                Cell(share),
                Cell(p_value(tally.adjusted), "muted"),
                outcome_cell(tally.outcome),
            )
        )
    counts = (Column(label, right=True) for label in (result.second, result.first, "ties"))
    columns = (
        Column(),
        *counts,
        Column(f"{result.second} won"),
        Column("share", right=True),
        Column("p", right=True, priority=1),
        Column(priority=1),
    )
    return Table("Votes", "sign test, Wilson interval; secondary questions Holm-adjusted", columns, tuple(rows))


def rater_table(result: BlindResult) -> Table:
    """Return a table of the rater's consistency and biases."""
    items = [
        ("shown first", f"won {result.left} of {plural(result.decided, 'vote')}, with repeats, without ties"),
        ("median length", f"{result.first} {result.lengths[0]:,.0f} characters, {result.second} {result.lengths[1]:,.0f}"),
    ]
    if result.uneven:
        items.insert(1, ("longer answer", f"won {result.longer} of {plural(result.uneven, 'vote')}, without repeats and ties"))
    if result.repeated:
        kappa = f", κ {result.consistency.value:.2f}" if result.consistency else ""
        items.insert(0, ("repeated pairs", f"{result.agreed} of {result.repeated} votes the same{kappa}"))
    return key_value_table("Rater", "consistency and biases", items)
