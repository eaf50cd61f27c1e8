"""The record of an answer: what an arm generated for a held-out row, the likelihoods of the row's references, and the scores.

``outputs.jsonl`` and ``seeds.jsonl`` store it in one form: ``to_json(answer)``.

An answer that was cut off while it repeated itself would not have ended later either. One that was still going might have passed
with a higher limit, unless it had failed for good already, so a comparison in which many answers of the losing arm were still going says
little about the arms.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlxtune.core.json_fields import optional
from mlxtune.core.sequences import grouped
from mlxtune.evaluation import scorers
from mlxtune.evaluation.scorers import CORRECT, PASS, PREFERENCE, Score

if TYPE_CHECKING:  # validators take a while to import
    from mlxtune.evaluation.contract import Contract
    from mlxtune.evaluation.evidence import EvaluatedRow


MAX_CUT = 0.05  # an arm cannot lose a comparison if a larger share of its answers was cut off and might still have passed
_LENGTH = 16  # characters per n-gram
_TAIL = 64  # minimum number of characters at the end of an answer in which n-grams are counted
_SHARE = 0.5  # minimum share of repeated n-grams in the tail of a loop; it is below a tenth in ordinary answers
_LOOPS = (scorers.LOOP, scorers.THINKING_LOOP)
_CUT = ("length", scorers.GRAMMAR_LIMIT, scorers.THINKING_LIMIT, *_LOOPS)


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
    def margin(self) -> float | None:
        """How much more likely the chosen answer of the row's pair is, in nats per token, because sums would favor the shorter one."""
        if not self.rejected or not self.tokens:
            return None
        return self.rejected[0] / self.rejected[1] - self.nats / self.tokens

    @property
    def preference(self) -> Score | None:
        """The score on preference, if both likelihoods were computed."""
        if self.margin is None:
            return None
        if self.margin > 0:
            return PASS
        return Score(False, "prefers_the_rejected", f"the rejected answer is more likely by {-self.margin:.3f} nats per token")


@dataclass(frozen=True)
class AnswerStatistics:
    """How an arm's answers ended, and how long they are and take."""

    cut: int  # answers that were cut off while still going
    loops: int  # answers that were cut off while repeating themselves
    tokens: int  # of all answers
    p50: float | None = optional(None)  # a percentile of the seconds per answer, if all were measured
    p95: float | None = optional(None)
    failed: int = 0  # of the cut answers, those that had failed for good, for example because they were too long

    @property
    def undecided(self) -> int:
        """The number of answers that were cut off and might have passed with a higher limit."""
        return self.cut - self.failed


@dataclass(frozen=True)
class ArmAnswers:
    """All answers of one arm, in row order."""

    name: str
    answers: tuple[Answer, ...]
    cached: bool  # whether the answers were read from the cache
    seconds: float  # how long it took to generate them
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
        if preference := answer.preference:
            scores[PREFERENCE] = preference
        scored.append(replace(answer, scores=scores))
    return score_conversations(rows, scored)


def score_conversations(rows: Sequence[EvaluatedRow], answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return ``answers`` with a score on each conversation that was evaluated at several turns, at its last one.

    Rows are turns of one conversation if the prompt of one begins with the prompt of the other. A conversation is right if the
    answers at all of its turns are.
    """
    prompts = [tuple(json.dumps(turn.as_dict(), sort_keys=True) for turn in row.prompt) for row in rows]
    by_prompt = grouped((prompt, index) for index, prompt in enumerate(prompts) if CORRECT in answers[index].scores)
    earlier = {
        prompt: [index for length in range(1, len(prompt)) for index in by_prompt.get(prompt[:length], ())] for prompt in by_prompt
    }
    inner = {prompts[index] for indices in earlier.values() for index in indices}
    result = list(answers)
    for prompt, indices in earlier.items():
        for index in by_prompt[prompt] if indices and prompt not in inner else ():
            wrong = sum(not answers[turn].scores[CORRECT].passed for turn in (*indices, index))
            score = Score(False, "wrong_turns", f"{wrong} of {len(indices) + 1} turns are wrong") if wrong else PASS
            result[index] = replace(answers[index], scores={**answers[index].scores, scorers.CONVERSATION: score})
    return tuple(result)


def score_seed(
    contract: Contract, seed: SeedAnswers, validation: Sequence[EvaluatedRow], held_out: Sequence[EvaluatedRow]
) -> SeedAnswers:
    parts = score_answers(contract, validation, seed.validation), score_answers(contract, held_out, seed.held_out)
    return SeedAnswers(seed.run, seed.seed, *parts)


def without_pairs(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return ``answers`` without the likelihoods of rejected answers, and so without preferences."""
    return tuple(
        replace(answer, rejected=None, scores={name: score for name, score in answer.scores.items() if name != PREFERENCE})
        for answer in answers
    )


def reference_likelihood(answers: Sequence[Answer]) -> tuple[float, int]:
    """Return the total negative log-likelihood of the references, in nats, and their tokens."""
    return sum(answer.nats for answer in answers), sum(answer.tokens for answer in answers)


def answer_speed(answers: Sequence[Answer]) -> float:
    """Return the tokens per second of timed ``answers``."""
    return sum(one.answer_tokens + one.thought_tokens for one in answers) / sum(one.seconds or 0.0 for one in answers)


def answer_statistics(answers: Sequence[Answer]) -> AnswerStatistics:
    cut = [answer for answer in answers if answer.ended in _CUT]
    going = [answer for answer in cut if not _repeats(answer)]
    failed = sum(not is_undecided(answer) for answer in going)
    seconds = sorted(answer.seconds for answer in answers if answer.seconds is not None)
    is_timed = seconds and len(seconds) == len(answers)
    p50, p95 = (seconds[math.ceil(share * len(seconds)) - 1] if is_timed else None for share in (0.5, 0.95))
    tokens = sum(answer.answer_tokens for answer in answers)
    return AnswerStatistics(len(going), len(cut) - len(going), tokens, p50, p95, failed)


def is_undecided(answer: Answer) -> bool:
    """Return whether ``answer`` was cut off and might have passed with a higher limit: been correct or, without a reference, met the contract."""
    deciding = answer.scores.get(CORRECT) or answer.scores.get(scorers.CONTRACT, PASS)
    return answer.ended in _CUT and not _repeats(answer) and not deciding.is_final


def _repeats(answer: Answer) -> bool:
    if answer.ended == scorers.GRAMMAR_LIMIT:
        return False
    return answer.ended in _LOOPS or is_loop(answer.thought if answer.ended == scorers.THINKING_LIMIT else answer.output)


def is_loop(text: str) -> bool:
    """Return whether ``text`` ends in a loop: most n-grams of characters in its last quarter occurred before it.

    Numbers count as equal, so a list that repeats one item is also a loop. :class:`~mlxtune.models.thoughts.LoopDetector`, which ends
    answers, counts exact repetition only.
    """
    text = re.sub(r"\d+", "0", text.casefold())
    grams = [text[start : start + _LENGTH] for start in range(len(text) - _LENGTH + 1)]
    tail = len(grams) - max(len(text) // 4, min(_TAIL, len(text) // 2))
    if tail <= 0:
        return False
    earlier = set(grams[:tail])
    repeated = 0
    for gram in grams[tail:]:
        repeated += gram in earlier
        earlier.add(gram)
    return repeated >= _SHARE * (len(grams) - tail)
