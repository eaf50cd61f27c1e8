"""Votes between two arms, counted: per question, with the reader's own consistency and leanings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from mlxtune.core.text import plural
from mlxtune.evaluation.agreement import Estimate, kappa
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.clusters import flips, net, worth
from mlxtune.evaluation.statistics import holm, wilson
from mlxtune.evaluation.verdict import Word, judged

Choice = Literal["first", "second", "tie"]

QUESTIONS = {
    "format": "Which follows the format better?",
    "voice": "Which has the right voice?",
    "send": "Which would you rather send to a customer?",
}
HEADLINE = "send"  # the question the verdict is about, and the one whose votes become pairs


@dataclass(frozen=True)
class Tally:
    """One question's votes: the second arm's ``wins`` and ``losses``, ``ties``, its share of the decided votes, p, the word.

    The interval is Wilson's, p the sign test's; ``adjusted`` is after Holm over the side questions.
    """

    question: str
    wins: int
    losses: int
    ties: int
    low: float
    share: float
    high: float
    p: float
    adjusted: float
    word: Word


@dataclass(frozen=True)
class Result:
    """What a finished session found, sides and lengths revealed.

    ``agreed`` of ``repeated`` votes on planted repeats were the same again, ``consistency`` is their κ. ``left`` of ``decided``
    votes went to the answer shown first, ``longer`` of ``uneven`` ones to the longer answer. ``lengths`` are median characters.
    """

    first: str
    second: str
    pairs: int
    tallies: tuple[Tally, ...]
    agreed: int
    repeated: int
    consistency: Estimate | None
    left: int
    decided: int
    longer: int
    uneven: int
    lengths: tuple[float, float]
    verdict: str


def count(
    first: str,
    second: str,
    chosen: Sequence[tuple[Pair, str, Choice]],
    *,
    repeats: Sequence[tuple[Choice, Choice]],
    left: int,
    decided: int,
) -> Result:
    """The result of ``chosen`` votes (row, question, arm). ``repeats`` are a vote and the one on the same pair shown again."""
    tallies = _tallies(chosen)
    shown = list({pair.id: pair for pair, _, _ in chosen}.values())
    uneven = [(pair, arm) for pair, _, arm in chosen if arm != "tie" and len(pair.first) != len(pair.second)]
    return Result(
        first=first,
        second=second,
        pairs=len(shown),
        tallies=tallies,
        agreed=sum(one == two for one, two in repeats),
        repeated=len(repeats),
        consistency=kappa(repeats) if repeats else None,
        left=left,
        decided=decided,
        longer=sum((len(pair.first) > len(pair.second)) == (arm == "first") for pair, arm in uneven),
        uneven=len(uneven),
        lengths=(median(len(pair.first) for pair in shown), median(len(pair.second) for pair in shown)),
        verdict=sentence(next(item for item in tallies if item.question == HEADLINE), first, second),
    )


def sentence(found: Tally, first: str, second: str) -> str:
    """The verdict of one question in words, with its interval in whole points."""
    share, low, high = (round(100 * value) for value in (found.share, found.low, found.high))
    decided = found.wins + found.losses
    ties = f", {plural(found.ties, 'tie')}" if found.ties else ""
    if not decided:
        return f"Cannot tell. Every vote was a tie, {found.ties} of them."
    told = f"{second} won {found.wins} of {decided} decided votes over {first}: {share} %, between {low} and {high}{ties}."
    return f"{found.word.capitalize()}. {told}"


def exported(choices: Sequence[tuple[Pair, str, Choice]], question: str = HEADLINE) -> list[dict[str, Any]]:
    """The decided votes on ``question`` as preference rows: ``{"prompt": messages, "chosen", "rejected"}``.

    A pair with an empty answer is left out: no trainer takes it.
    """
    return [
        {
            "prompt": [message.as_dict() for message in pair.prompt],
            "chosen": pair.first if arm == "first" else pair.second,
            "rejected": pair.second if arm == "first" else pair.first,
            **({"tools": list(pair.tools)} if pair.tools else {}),
        }
        for pair, asked, arm in choices
        if asked == question and arm != "tie" and pair.first.strip() and pair.second.strip()
    ]


def tally(question: str, choices: Sequence[Choice], groups: Sequence[Hashable], adjusted: float | None = None) -> Tally:
    """``choices`` on one question, counted and judged by the sign test, or by ``adjusted`` in place of its p.

    Votes on rows of one of ``groups`` count as one piece of evidence.
    """
    decided = [(choice == "second", group) for choice, group in zip(choices, groups, strict=True) if choice != "tie"]
    wins, losses = choices.count("second"), choices.count("first")
    rows = worth([won for won, _ in decided], [group for _, group in decided]) if decided else 0.0
    low, high = wilson(wins, wins + losses, rows=rows) if decided else (0.0, 1.0)
    share = wins / (wins + losses) if decided else 0.5
    p = flips(net([1 if won else -1 for won, _ in decided], [group for _, group in decided]))
    believed = p if adjusted is None else adjusted
    word = judged(believed, low - 0.5, high - 0.5)
    return Tally(question, wins, losses, len(choices) - wins - losses, low, share, high, p, believed, word)


def _tallies(chosen: Sequence[tuple[Pair, str, Choice]]) -> tuple[Tally, ...]:
    found = {question: tally(question, *_votes(chosen, question)) for question in QUESTIONS}
    side = [question for question in QUESTIONS if question != HEADLINE]
    for question, adjusted in zip(side, holm([found[question].p for question in side]), strict=True):
        found[question] = tally(question, *_votes(chosen, question), adjusted)
    return tuple(found.values())


def _votes(chosen: Sequence[tuple[Pair, str, Choice]], question: str) -> tuple[list[Choice], list[str]]:
    """The choices on one question, and the groups of their rows."""
    return [arm for _, asked, arm in chosen if asked == question], [pair.group for pair, asked, _ in chosen if asked == question]
