"""Arms that cost nothing: a constant answer, and the answer of the nearest training prompt; and the strongest untrained arm.

Free arms generate nothing and know only the training rows. A contract that one of them meets as often as the adapter does not measure the
task.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.data.free_rates import FreeRates
from mlxtune.data.rows import PromptRow, Row, json_value
from mlxtune.data.split import Splits, prompt_rows, sample_rows
from mlxtune.evaluation import evidence as saved
from mlxtune.evaluation.answers import Answer, ArmAnswers, score_answers
from mlxtune.evaluation.arms import CONSTANT, COPIER
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import OUTPUTS, EvaluatedRow, EvaluationEvidence, evaluated_rows
from mlxtune.evaluation.report import ReportFacts, StrongestFacts
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.recipe import Recipe

if TYPE_CHECKING:
    from mlxtune.evaluation.nearest_rows import RowVectors

_COPIED = 2_000_000  # pairs of a held-out and a training row that a plan compares
_BUDGET = 4_000  # scores computed in one round of choosing a constant
_KEPT = 4  # one in so many candidates is scored on more rows


@dataclass(frozen=True)
class AnsweredRows:
    """The training and validation rows that have a prompt and a reference answer, which free arms may use."""

    train: list[PromptRow]
    valid: list[PromptRow]

    @classmethod
    def from_splits(cls, splits: Splits) -> AnsweredRows:
        return cls(_answered(splits.train), _answered(splits.valid))

    @property
    def hash(self) -> str:
        """The hash of the rows, with which a free arm can be computed again."""
        return sha256_json([[row.hash for row in rows] for rows in (self.train, self.valid)])


def free_arms(
    contract: Contract, metric: str, known: AnsweredRows, rows: Sequence[PromptRow], vectors: RowVectors | None = None
) -> tuple[list[ArmAnswers], Literal["words", "words_and_vectors"]]:
    """Return the free arms' answers to ``rows``, without tokens, times, and likelihoods, and how the copier finds its row.

    ``known`` must have a training row; ``metric`` is the verdict's. The copier uses the base's ``vectors`` of all rows in addition to shared words if that meets ``metric`` on more validation rows.
    """
    constant, validation = constant_answer(contract, metric, known), evaluated_rows(known.valid)
    by_words, by_both = (
        _hits(contract, metric, validation, copied_answers(known.valid, known.train, constant, own))
        if vectors is not None and validation else (0, 0)
        for own in (None, vectors)
    )  # fmt: skip
    copies = copied_answers(rows, known.train, constant, vectors if by_both > by_words else None)
    arms = [
        ArmAnswers(name, tuple(Answer(row.id, text, "stop") for row, text in zip(rows, texts, strict=True)), False, 0.0)
        for name, texts in ((CONSTANT, [constant] * len(rows)), (COPIER, copies))
    ]
    return arms, "words_and_vectors" if by_both > by_words else "words"


def copied_answers(
    rows: Sequence[PromptRow], train: Sequence[PromptRow], otherwise: str, vectors: RowVectors | None = None
) -> list[str]:
    """Return, for each row, the answer of the nearest training prompt, or ``otherwise`` if none shares words with it."""
    from mlxtune.evaluation.nearest_rows import nearest_rows

    matches = nearest_rows(rows, train, vectors, 1)
    return [train[found[0][0]].reference or "" if found else otherwise for found in matches]


def constant_answer(contract: Contract, metric: str, known: AnsweredRows) -> str:
    """Return the answer that meets ``metric``, then the contract, on most validation rows; of equal ones, on most training rows.

    Candidates are the training answers, most frequent first, and an object with the most frequent value of every field.
    """
    counts = Counter(row.reference or "" for row in known.train)
    candidates = [text for text, _ in counts.most_common(_BUDGET)]
    candidates += [text for text in _most_frequent_fields(counts) if text not in counts]
    for rows in (known.valid, known.train):
        if len(candidates) > 1:
            candidates = _strongest(contract, metric, evaluated_rows(sample_rows(rows, _BUDGET)), candidates)
    return candidates[0]


def free_rates(recipe: Recipe, splits: Splits) -> FreeRates | None:
    """Return how many held-out rows a constant answer and copies pass; ``None`` if nothing is known, or if pairs are compared.

    The held-out rows, of which a large training set leaves fewer in the sample, are only counted. Copies are chosen by shared words.
    """
    from mlxtune.data.scaffold import telling_fields  # imports numpy, which the command line's help does not need

    known = AnsweredRows.from_splits(splits)
    most = min(recipe.evaluation.rows or _BUDGET, _COPIED // max(1, len(known.train)))
    prompts = _answered(sample_rows(splits.test, most)) or known.valid
    rows = evaluated_rows(prompts)
    if recipe.method.kind == "dpo" or not known.train or not rows:
        return None
    contract = Contract.from_recipe(recipe)
    metric = contract.headline(recipe, has_preferences=False)
    text = constant_answer(contract, metric, known)
    values, compared = [json_value(row.reference or "") for row in sample_rows(known.train, _BUDGET)], contract.section.correct
    has_fields = all(isinstance(value, dict) for value in values) and not {"answer", "fields", "calls"}.intersection(compared)
    fields = tuple(name for name in telling_fields(values) if name not in compared) if has_fields else ()
    constant, copier = (
        _hits(contract, metric, rows, texts)[0]
        for texts in ([text] * len(rows), copied_answers(prompts, known.train, text))
    )  # fmt: skip
    return FreeRates(constant, copier, len(rows), fields)


def _strongest(contract: Contract, metric: str, rows: Sequence[EvaluatedRow], candidates: list[str]) -> list[str]:
    """Return the candidates that meet ``metric`` most often. Many candidates are first scored on some of the rows."""
    rows = sorted(rows, key=lambda row: row.id)
    while len(candidates) > 1 and rows:
        own = rows[: max(1, _BUDGET // len(candidates))]
        hits = {text: _hits(contract, metric, own, [text] * len(own)) for text in candidates}
        if len(own) == len(rows) or len(candidates) <= _KEPT:
            return [text for text in candidates if hits[text] == max(hits.values())]
        candidates = sorted(candidates, key=lambda text: hits[text], reverse=True)[: len(candidates) // _KEPT]
    return candidates


def _hits(contract: Contract, metric: str, rows: Sequence[EvaluatedRow], texts: Iterable[str]) -> tuple[int, int]:
    """Return how many answers meet ``metric``, and how many the contract."""
    answers = (row.answer(text, "stop") for row, text in zip(rows, texts, strict=True))
    passed = [answer for answer in answers if contract.passes(metric, answer)]  # the metric is a part of the contract
    return len(passed), len(passed) if metric == CONTRACT else sum(contract.passes(CONTRACT, answer) for answer in passed)


def _most_frequent_fields(counts: Counter[str]) -> list[str]:
    """Return an object with the most frequent value of every field as JSON, if most answers are JSON objects."""
    objects = [(value, count) for text, count in counts.items() if isinstance(value := json_value(text), dict)]
    is_usual = 2 * sum(count for _, count in objects) > counts.total()
    return [json.dumps(_most_frequent(objects), ensure_ascii=False)] if is_usual else []


def _most_frequent(values: Sequence[tuple[Any, int]]) -> Any:
    if not all(isinstance(value, dict) for value, _ in values):
        counts = Counter(text for value, count in values for text in [json.dumps(value, ensure_ascii=False)] * count)
        return json.loads(counts.most_common(1)[0][0])
    total, fields = sum(count for _, count in values), dict.fromkeys(name for value, _ in values for name in value)
    having = {name: [(value[name], count) for value, count in values if name in value] for name in fields}
    return {name: _most_frequent(own) for name, own in having.items() if 2 * sum(count for _, count in own) > total}


def free_arm_problems(evidence: EvaluationEvidence, contract: Contract, facts: ReportFacts, splits: Splits | None) -> Iterator[str]:
    """Yield what is wrong with the stored answers of free arms.

    They are computed again if ``splits`` still have the same training and validation rows. Those that depend on the base's vectors are
    only looked up among the training answers.
    """
    outputs = {name: [one.output for one in evidence.answers.get(name, ())] for name in (CONSTANT, COPIER)}
    missing = [name for name, texts in outputs.items() if not texts and name not in facts.get("left_out", {})]
    yield from (f"{OUTPUTS} lacks the arm {name}." for name in missing)
    if len(set(outputs[CONSTANT])) > 1:
        yield f"{OUTPUTS}, {CONSTANT}: the answers differ from each other."
    recipe, recorded = evidence.recipe, facts.get("free_arms")
    if splits is None or recorded is None:  # without the source, nothing more is known
        return
    with suppress(MlxtuneError):
        known = AnsweredRows.from_splits(splits)
        held_out = {row.id: row for row in (*splits.test, *splits.prompts)}
        rows = [held_out[one.id] for one in evidence.rows if one.id in held_out]
        if known.hash != recorded["training"] or len(rows) != len(evidence.rows):
            return
        constant = constant_answer(contract, contract.headline(recipe, has_preferences=False), known)
        copies = copied_answers(prompt_rows(rows), known.train, constant) if recorded["nearest"] == "words" else outputs[COPIER]
        answers = {constant, *(row.reference for row in known.train)}
        for name, texts in ((CONSTANT, [constant] * len(rows)), (COPIER, copies)):
            for row, text, output in zip(rows, texts, outputs[name], strict=False):
                if output != text or text not in answers:
                    yield f"{OUTPUTS}, {name}, {row.id}: the training rows give another answer."


def _answered(rows: Iterable[Row]) -> list[PromptRow]:
    return [row for row in rows if isinstance(row, PromptRow) and row.reference is not None]


def strongest(
    contract: Contract, recipe: Recipe, rows: Sequence[EvaluatedRow], answers: Mapping[str, Sequence[Answer]]
) -> StrongestFacts:
    """Return which arm's ``answers`` to the validation ``rows`` pass most often: the verdict's metric, then the contract.

    Of equal arms, it is the one with the most right fields, then the one that passes the most parts of the contract, then the first.
    """
    headline = contract.headline(recipe, has_preferences=False)
    passes = {}
    for name, own in answers.items():
        scored = [answer.scores for answer in score_answers(contract, rows, own)]
        hits = Counter(metric for scores in scored for metric, score in scores.items() if score.passed)
        right = sum(scores[headline].value or 0.0 for scores in scored if headline in scores)
        passes[name] = hits[headline], hits[CONTRACT], right, hits.total()
    strongest = max(passes, key=lambda name: passes[name])
    return {"arm": strongest, "hits": {name: own[0] for name, own in passes.items()}, "rows": len(rows)}


def stored_strongest(folder: Path, contract: Contract, recipe: Recipe) -> StrongestFacts | None:
    """Choose again from the stored answers; ``None`` if there are none. Raises ``InputError`` if they do not match the rows."""
    if not (folder / saved.CANDIDATES).is_file():
        return None
    rows = saved.load_rows(folder, saved.VALIDATION)
    return strongest(contract, recipe, rows, saved.load_outputs(folder, rows, saved.CANDIDATES))
