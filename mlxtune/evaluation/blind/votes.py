"""Count blind votes between two arms per question, and measure the rater's consistency and biases."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

from mlxtune.evaluation.evidence import AnswerPair
from mlxtune.evaluation.statistics.agreement import kappa
from mlxtune.evaluation.statistics.clusters import effective_n, group_sums, permutation_p
from mlxtune.evaluation.statistics.intervals import Estimate, wilson
from mlxtune.evaluation.statistics.significance import holm
from mlxtune.evaluation.verdict import Outcome, decide

ArmChoice = Literal["first", "second", "tie"]

QUESTIONS = {
    "format": "Which follows the format better?",
    "voice": "Which has the right voice?",
    "send": "Which answer is better overall?",
}
HEADLINE_QUESTION = "send"  # the question that the verdict is about, and whose votes become preference pairs


class RowVote(NamedTuple):
    """The arm chosen for one question on one row."""

    pair: AnswerPair
    question: str
    choice: ArmChoice


@dataclass(frozen=True)
class VoteTally:
    """One question's votes: the second arm's wins, losses and ties, its share of votes that are not ties, the p-value, and the outcome."""

    question: str
    wins: int
    losses: int
    ties: int
    low: float  # Wilson limits of the share
    share: float
    high: float
    p: float  # of the sign test
    adjusted: float  # over the secondary questions (Holm)
    outcome: Outcome


@dataclass(frozen=True)
class BlindResult:
    """The result of a finished session, with sides and lengths revealed."""

    first: str
    second: str
    pairs: int
    tallies: tuple[VoteTally, ...]
    agreed: int  # of the ``repeated`` votes on repeated pairs, those that matched the first vote
    repeated: int
    consistency: Estimate | None  # their κ
    left: int  # of the ``decided`` votes, those for the answer shown first
    decided: int
    longer: int  # of the votes on ``uneven`` pairs, those for the longer answer
    uneven: int
    lengths: tuple[float, float]  # median characters

    @property
    def headline(self) -> VoteTally:
        return next(tally for tally in self.tallies if tally.question == HEADLINE_QUESTION)


def count_votes(
    first: str, second: str, votes: Sequence[RowVote], *, repeats: Sequence[tuple[ArmChoice, ArmChoice]], left: int, decided: int
) -> BlindResult:
    """Count ``votes``. ``repeats`` holds both votes on each pair that was shown twice."""
    shown = list({vote.pair.id: vote.pair for vote in votes}.values())
    uneven = [vote for vote in votes if vote.choice != "tie" and len(vote.pair.first) != len(vote.pair.second)]
    return BlindResult(
        first, second, len(shown), _tallies(votes), sum(one == two for one, two in repeats), len(repeats),
        kappa(repeats), left, decided,
        longer=sum((len(vote.pair.first) > len(vote.pair.second)) == (vote.choice == "first") for vote in uneven),
        uneven=len(uneven), lengths=(median(len(pair.first) for pair in shown), median(len(pair.second) for pair in shown)),
    )  # fmt: skip


def preference_rows(votes: Sequence[RowVote], question: str = HEADLINE_QUESTION) -> list[dict[str, Any]]:
    """Return the votes on ``question`` as preference rows: ``{"prompt": messages, "chosen", "rejected"}``.

    Pairs with an empty answer are omitted, because they cannot be trained on.
    """
    rows = []
    for pair, asked, choice in votes:
        chosen, rejected = (pair.first, pair.second) if choice == "first" else (pair.second, pair.first)
        if asked == question and choice != "tie" and chosen.strip() and rejected.strip():
            tools = {"tools": list(pair.tools)} if pair.tools else {}
            rows.append({"prompt": [turn.as_dict() for turn in pair.prompt], "chosen": chosen, "rejected": rejected, **tools})
    return rows


def tally_votes(
    question: str, choices: Sequence[ArmChoice], groups: Sequence[Hashable], adjusted: float | None = None
) -> VoteTally:
    """Tally ``choices`` on one question. The outcome is based on ``adjusted``, or on the sign test's p-value if it is ``None``.

    Votes on rows in the same group count as one independent vote.
    """
    decided = [(choice == "second", group) for choice, group in zip(choices, groups, strict=True) if choice != "tie"]
    won, own_groups = [vote for vote, _ in decided], [group for _, group in decided]
    wins, losses = choices.count("second"), choices.count("first")
    low, high = wilson(wins, wins + losses, effective_n=effective_n(won, own_groups)) if decided else (0.0, 1.0)
    share = wins / (wins + losses) if decided else 0.5
    p = permutation_p(group_sums([1 if vote else -1 for vote in won], own_groups))
    used = p if adjusted is None else adjusted
    ties = len(choices) - wins - losses
    return VoteTally(question, wins, losses, ties, low, share, high, p, used, decide(used, low - 0.5, high - 0.5))


def _tallies(votes: Sequence[RowVote]) -> tuple[VoteTally, ...]:
    def tally(question: str, adjusted: float | None = None) -> VoteTally:
        own = [vote for vote in votes if vote.question == question]
        return tally_votes(question, [vote.choice for vote in own], [vote.pair.group for vote in own], adjusted)

    side = [question for question in QUESTIONS if question != HEADLINE_QUESTION]
    adjusted = dict(zip(side, holm([tally(question).p for question in side]), strict=True))
    return tuple(tally(question, adjusted.get(question)) for question in QUESTIONS)
