"""Describe the result of a blind session."""

from mlxtune.core.text import plural
from mlxtune.evaluation.blind.votes import QUESTIONS, BlindResult, VoteTally
from mlxtune.present.blocks import Cell, Column, Document, Fact, Facts, Heading, IntervalBar, Table, Text, figures, text
from mlxtune.present.labels import capital, outcome_cell, outcome_mark, p_value, word


def blind_document(result: BlindResult) -> Document:
    """Describe which arm won, the votes on each question, and the rater's consistency."""
    return (
        Heading("Verdict", f"{plural(result.pairs, 'pair')}, rated blind"),
        tally_verdict(result.headline, result.first, result.second),
        votes_table(result),
        Heading("Rater", "consistency and biases"),
        rater_facts(result),
    )


def tally_verdict(tally: VoteTally, first: str, second: str) -> Text:
    """Return the verdict on one question of a blind session or a judge, with its interval in whole points."""
    return text(tally_text(tally, first, second), "bold", outcome_mark(tally.outcome))


def tally_text(tally: VoteTally, first: str, second: str) -> str:
    """Return the outcome of one question, and by how much the second arm won."""
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
    counts = *figures(result.second, result.first, "ties"), Column(f"{result.second} won"), *figures("share")
    columns = (Column(), *counts, *figures("p", priority=1), Column(priority=1))
    return Table("Votes", "sign test, Wilson interval; secondary questions Holm-adjusted", columns, tuple(rows))


def rater_facts(result: BlindResult) -> Facts:
    """Describe the rater's consistency and biases."""
    same, kappa = f"{result.agreed} of {result.repeated} votes the same", result.consistency
    characters = f"{result.first} {result.lengths[0]:,.0f} characters, {result.second} {result.lengths[1]:,.0f}"
    found = [
        Fact("repeated", same, f"κ {kappa.value:.2f}" if kappa else "") if result.repeated else None,
        Fact("left", f"won {result.left} of {plural(result.decided, 'vote')}", "no ties"),
        Fact("longer", f"won {result.longer} of {plural(result.uneven, 'vote')}", "no repeats, ties") if result.uneven else None,
        Fact("length", characters, "median"),
    ]
    return Facts(tuple(fact for fact in found if fact))
