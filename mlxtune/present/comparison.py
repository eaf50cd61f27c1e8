"""Describe the comparison of two arms or of two evaluations, metric by metric, and the votes of a blind session."""

from collections.abc import Sequence

from mlxtune.core.text import plural
from mlxtune.evaluation.blind.votes import QUESTIONS, BlindResult, VoteTally
from mlxtune.evaluation.compare import EvaluationComparison
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.statistics.significance import needed_rows
from mlxtune.evaluation.verdict import Comparison, ScoreComparison
from mlxtune.present.blocks import Cell, Column, Document, Fact, Facts, Heading, IntervalBar, Table, Text, figures, text
from mlxtune.present.labels import capital, change_text, outcome_cell, outcome_mark, p_value, word
from mlxtune.present.verdict import change_sentence


def comparison_document(result: EvaluationComparison, row: str = "held-out row") -> Document:
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
    return f"{capital(word(result.headline.outcome))}. {change_sentence(result.headline)}"


def evaluation_comparison_table(result: EvaluationComparison) -> Table:
    note = "same rows; Newcombe intervals; exact test over groups of rows, p after Holm"
    items = [(metric_label(item.metric), item) for item in result.comparisons]
    return comparison_table(f"{result.second} over {result.first}", note, items)


def comparison_table(title: str, note: str, items: Sequence[tuple[str, Comparison]]) -> Table:
    reach = max(max(abs(item.low), abs(item.high)) for _, item in items) or 1.0
    rows = []
    for name, item in items:
        paired = item.paired
        rows.append((
            Cell(name), Cell(f"{paired.fixed:,}", "success" if paired.fixed else "muted"),
            Cell(f"{paired.broken:,}", "error" if paired.broken else "muted"), Cell(f"{paired.both:,}", "muted"),
            Cell(f"{paired.neither:,}", "muted"), Cell(bar=IntervalBar(item.low, item.change, item.high, -reach, reach)),
            Cell(change_text(item.low, item.change, item.high)),
            Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted"), outcome_cell(item.outcome),
        ))  # fmt: skip
    counts = *figures("fixed", "broken"), *figures("both", "neither", priority=1)
    columns = (Column(), *counts, Column(priority=2), *figures("change, points", "p"), Column())
    return Table(title, note, columns, tuple(rows))


def score_table(items: Sequence[ScoreComparison]) -> Table:
    rows = []
    for item in items:
        counts = (Cell(f"{count:,}") for count in (item.rose, item.fell, item.tied))
        change = Cell(f"{item.change:+.2f} ({item.low:+.2f} to {item.high:+.2f})")
        p = Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted")
        rows.append((Cell(item.metric), *counts, change, p, outcome_cell(item.outcome)))
    columns = (Column(), *figures("rose", "fell", "same", "change", "p"), Column())
    note = "sign test with Holm-adjusted p-values; t intervals over groups"
    return Table("Scales, 1 to 5", note, columns, tuple(rows))


def blind_document(result: BlindResult) -> Document:
    return (
        Heading("Verdict", f"{plural(result.pairs, 'pair')}, rated blind"),
        blind_verdict(result),
        votes_table(result),
        Heading("Rater", "consistency and biases"),
        rater_facts(result),
    )


def blind_verdict(result: BlindResult) -> Text:
    return text(tally_text(result.headline, result.first, result.second), "bold", outcome_mark(result.headline.outcome))


def tally_text(tally: VoteTally, first: str, second: str) -> str:
    decided = tally.wins + tally.losses
    if not decided:
        return f"Cannot tell. All {tally.ties} votes were ties."
    share, low, high = (round(100 * value) for value in (tally.share, tally.low, tally.high))
    won = f"{second} won {tally.wins} of {plural(decided, 'vote')} against {first}"
    ties = f"; {plural(tally.ties, 'tie')} not counted" if tally.ties else ""
    return f"{capital(word(tally.outcome))}. {won} ({share}%, 95% interval: {low} to {high}){ties}."


def votes_table(result: BlindResult) -> Table:
    rows = []
    for tally in result.tallies:
        decided = tally.wins + tally.losses
        share = f"{100 * tally.share:.0f}% ({100 * tally.low:.0f} to {100 * tally.high:.0f})" if decided else "–"
        rows.append((
            Cell(QUESTIONS[tally.question]), Cell(f"{tally.wins:,}", "primary"), Cell(f"{tally.losses:,}"),
            Cell(f"{tally.ties:,}", "muted"), Cell(bar=IntervalBar(tally.low, tally.share, tally.high) if decided else None),
            Cell(share), Cell(p_value(tally.adjusted), "muted"), outcome_cell(tally.outcome),
        ))  # fmt: skip
    counts = *figures(result.second, result.first, "ties"), Column(f"{result.second} won"), *figures("share")
    columns = (Column(), *counts, *figures("p", priority=1), Column(priority=1))
    return Table("Votes", "sign test, Wilson interval; secondary questions Holm-adjusted", columns, tuple(rows))


def rater_facts(result: BlindResult) -> Facts:
    same, kappa = f"{result.agreed} of {result.repeated} votes the same", result.consistency
    characters = f"{result.first} {result.lengths[0]:,.0f} characters, {result.second} {result.lengths[1]:,.0f}"
    found = [
        Fact("repeated", same, f"κ {kappa.value:.2f}" if kappa else "") if result.repeated else None,
        Fact("left", f"won {result.left} of {plural(result.decided, 'vote')}", "no ties"),
        Fact("longer", f"won {result.longer} of {plural(result.uneven, 'vote')}", "no repeats, ties") if result.uneven else None,
        Fact("length", characters, "median"),
    ]
    return Facts(tuple(fact for fact in found if fact))
