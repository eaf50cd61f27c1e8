"""The files of an evaluation over several seeds, from which ``verify`` recomputes its numbers.

validation.jsonl    the validation rows, like questions.jsonl
seeds.jsonl         each seed's answers to the validation and the held-out rows
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_text
from mlxtune.core.journal import read
from mlxtune.evaluation.evidence import SEEDS, VALIDATION, EvaluatedRow, load_rows, to_jsonl
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.scorers.preference import PREFERENCE, PairLogprobs
from mlxtune.evaluation.seed_report import SeedScores

if TYPE_CHECKING:  # validators take a while to import
    from mlxtune.evaluation.contract import Contract

SplitPart = Literal["validation", "held-out"]


@dataclass(frozen=True)
class SeedAdapter:
    """An adapter, the run that trained it, and the seed of that run."""

    run: str
    seed: int
    adapter: str


@dataclass(frozen=True)
class SeedAnswer:
    """A seed's answer to one row. ``nats`` and ``tokens`` belong to the reference, ``logprobs`` to the row's preference pair."""

    run: str
    seed: int
    part: SplitPart
    id: str
    output: str
    ended: str
    nats: float
    tokens: int
    logprobs: PairLogprobs | None = None


def save_seed_answers(folder: Path, answers: Iterable[SeedAnswer]) -> None:
    """Write ``seeds.jsonl``."""
    records = []
    for answer in answers:
        pair = {"chosen": answer.logprobs.chosen, "rejected": answer.logprobs.rejected} if answer.logprobs else {}
        records.append({**{key: value for key, value in vars(answer).items() if key != "logprobs"}, **pair})
    write_text(folder / SEEDS, to_jsonl(records))


def load_seed_scores(folder: Path, contract: Contract, held_out: Sequence[EvaluatedRow]) -> list[SeedScores]:
    """Score each seed's answers; empty if the evaluation has no seeds. Raises ``InputError`` if a file is malformed."""
    if not (folder / SEEDS).is_file():
        return []
    answers = [_answer(record) for record in read(folder / SEEDS)]
    return score_seeds(answers, contract, load_rows(folder, VALIDATION), held_out)


def score_seeds(
    answers: Sequence[SeedAnswer], contract: Contract, validation: Sequence[EvaluatedRow], held_out: Sequence[EvaluatedRow]
) -> list[SeedScores]:
    """Score ``answers``, which each seed gave to all rows. Raises ``InputError`` if an answer is missing."""
    seeds = []
    for run, number in dict.fromkeys((answer.run, answer.seed) for answer in answers):
        by_row = {(answer.part, answer.id): answer for answer in answers if answer.run == run}
        try:
            valid = [by_row["validation", row.id] for row in validation]
            validation_scores = [_scores(contract, row, by_row["validation", row.id]) for row in validation]
            scores = [_scores(contract, row, by_row["held-out", row.id]) for row in held_out]
        except KeyError as error:
            raise InputError(f"{SEEDS} lacks an answer of {run} to the row {error.args[0][1]}.") from error
        nats, tokens = sum(answer.nats for answer in valid), sum(answer.tokens for answer in valid)
        seeds.append(SeedScores(run, number, validation_scores, nats, tokens, scores))
    return seeds


def _scores(contract: Contract, row: EvaluatedRow, answer: SeedAnswer) -> dict[str, Score]:
    scores = contract.score(row.answer(answer.output, answer.ended))
    return {**scores, PREFERENCE: answer.logprobs.score} if answer.logprobs else scores


def _answer(record: dict[str, Any]) -> SeedAnswer:
    try:
        pair = {key: record.pop(key) for key in ("chosen", "rejected") if key in record}
        return SeedAnswer(**record, logprobs=PairLogprobs(**pair) if pair else None)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{SEEDS}: unexpected format.", hint="The file was changed or damaged. Evaluate again: mlxtune eval"
        ) from error
