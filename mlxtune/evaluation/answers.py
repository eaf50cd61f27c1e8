"""The record of an answer: what an arm generated for a held-out row, the likelihoods of the row's references, and the scores.

The cache, ``outputs.jsonl`` and ``seeds.jsonl`` store it in one form: ``to_json(answer)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlxtune.core.json_fields import optional
from mlxtune.evaluation.answer_statistics import AnswerStatistics, answer_statistics
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.scorers.preference import PREFERENCE, PairLogprobs

if TYPE_CHECKING:  # validators take a while to import
    from mlxtune.evaluation.contract import Contract
    from mlxtune.evaluation.evidence import EvaluatedRow


@dataclass(frozen=True)
class Answer:
    """An arm's answer to a row."""

    id: str  # the ID of the row
    output: str  # the text after the reasoning
    ended: str  # why it ended, as in ModelAnswer
    answer_tokens: int = 0
    thought: str = optional("")  # the reasoning before the output
    thought_tokens: int = optional(0)
    seconds: float | None = optional(None)  # how long the answer would take alone, if that was measured
    nats: float = optional(0.0)  # the total negative log-likelihood of the row's reference answer
    tokens: int = optional(0)  # the number of tokens of the reference answer; 0 if its likelihood is unknown
    rejected: tuple[float, int] | None = optional(None)  # the same two values for the rejected answer of a preference pair
    scores: dict[str, Score] = optional(dict)  # the score on each metric that applies

    @property
    def logprobs(self) -> PairLogprobs | None:
        """The mean log-probabilities of the row's pair, if both were computed."""
        if not self.rejected or not self.tokens:
            return None
        return PairLogprobs(-self.nats / self.tokens, -self.rejected[0] / self.rejected[1])


@dataclass(frozen=True)
class ArmAnswers:
    """All answers of one arm, in row order."""

    name: str
    answers: tuple[Answer, ...]
    cached: bool  # whether the answers were read from the cache
    seconds: float  # how long it took to generate or read them
    no_likelihood_reason: str = ""  # why the references' likelihood is missing, if it is
    prompt_tokens: int | None = None  # of all prompts, if they were counted

    @property
    def scores(self) -> list[dict[str, Score]]:
        return [answer.scores for answer in self.answers]

    @property
    def perplexity(self) -> float | None:
        """The perplexity of the reference answers, if their likelihoods are known."""
        nats, tokens = reference_likelihood(self.answers)
        return math.exp(nats / tokens) if tokens else None

    @property
    def statistics(self) -> AnswerStatistics:
        return answer_statistics(self.answers)

    def without_pairs(self) -> ArmAnswers:
        """Return the answers without the likelihoods of rejected answers, and so without preferences."""
        return replace(self, answers=without_pairs(self.answers))


@dataclass(frozen=True)
class SeedAnswers:
    """The answers of the adapter that ``run`` trained with ``seed`` to the validation and to the held-out rows."""

    run: str
    seed: int
    validation: tuple[Answer, ...]
    held_out: tuple[Answer, ...]


def score_answers(contract: Contract, rows: Sequence[EvaluatedRow], answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return the answers to ``rows`` with their scores on every metric of ``contract`` and, for pairs, on preference."""
    scored = []
    for row, answer in zip(rows, answers, strict=True):
        scores = contract.score(row.answer(answer.output, answer.ended))
        if pair := answer.logprobs:
            scores[PREFERENCE] = pair.score
        scored.append(replace(answer, scores=scores))
    return tuple(scored)


def score_seed(
    contract: Contract, seed: SeedAnswers, validation: Sequence[EvaluatedRow], held_out: Sequence[EvaluatedRow]
) -> SeedAnswers:
    """Return a seed's answers with their scores."""
    return replace(
        seed,
        validation=score_answers(contract, validation, seed.validation),
        held_out=score_answers(contract, held_out, seed.held_out),
    )


def without_pairs(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return ``answers`` without the likelihoods of rejected answers, and so without preferences."""
    return tuple(
        replace(answer, rejected=None, scores={name: score for name, score in answer.scores.items() if name != PREFERENCE})
        for answer in answers
    )


def reference_likelihood(answers: Sequence[Answer]) -> tuple[float, int]:
    """Return the total negative log-likelihood of the references, in nats, and their tokens."""
    return sum(answer.nats for answer in answers), sum(answer.tokens for answer in answers)
