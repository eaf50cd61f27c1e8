"""Everything a judge is asked about two arms: each answer under each question, each pair in both orders, repeats and sentinels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.core.hashing import sha256_json, unit_interval
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.judge.rubric import Question, Rubric, Verdict, choosing, grading, preference, verdict
from mlxtune.evaluation.judge.sentinels import SENTINELS

REPEATED = 0.1  # of the calls are made a second time, at least ten of them, to measure the judge
FIRST, SECOND = "first", "second"


@dataclass(frozen=True)
class Call:
    """One question to the judge.

    ``subject`` is ``first``, ``second`` or a sentinel's name; ``question`` is ``None`` for a pair, where ``one`` and ``two`` are
    the answers in the order shown and ``swapped`` says that the second arm's, or the reference, came first. ``take`` is 1 for a
    planted repeat.
    """

    row: str
    subject: str
    question: Question | None
    one: str
    two: str
    swapped: bool
    take: int
    messages: list[dict[str, str]]

    @property
    def key(self) -> str:
        """What is asked and how often before: the call's name in the journal."""
        return sha256_json([self.messages, self.take])[:32]

    def read(self, reply: str) -> Verdict:
        """The judge's ``reply``, read strictly."""
        return verdict(self.question, reply, self.one) if self.question else preference(reply, self.one, self.two)


def batch(rows: Sequence[Pair], rubric: Rubric, seed: int) -> list[Call]:
    """All calls, shuffled, so that no judge sees where a sentinel or a repeat stands. The same seed gives the same batch."""
    first = [call for row in rows for call in _row(row, rubric, seed, 0)]
    number = min(len(first), max(10, round(REPEATED * len(first))))
    again = {(call.row, call.subject, call.question, call.swapped) for call in _drawn(first, seed, "again")[:number]}
    repeats = [
        call
        for row in rows
        for call in _row(row, rubric, seed, 1)
        if (call.row, call.subject, call.question, call.swapped) in again
    ]
    return _drawn([*first, *repeats, *_sentinels(rows, rubric, seed)], seed, "order")


def _row(row: Pair, rubric: Rubric, seed: int, take: int) -> list[Call]:
    """Both answers under every question, and the pair in both orders; answers that are equal are no pair."""
    calls = []
    for question in rubric.questions:
        for subject, answer in ((FIRST, row.first), (SECOND, row.second)):
            mark = _mark(seed, row.id, subject, question.name, take)
            calls.append(Call(row.id, subject, question, answer, "", False, take, grading(question, row.prompt, answer, mark)))
    if row.first != row.second:
        calls += [_pair(row, "pair", row.first, row.second, swapped, rubric, seed, take) for swapped in (False, True)]
    return calls


def _sentinels(rows: Sequence[Pair], rubric: Rubric, seed: int) -> list[Call]:
    """Each sentinel in place of an answer, under every question and against the reference in both orders."""
    places = sorted(rows, key=lambda row: unit_interval(seed, "sentinel", row.id))
    calls = []
    for at, (name, text) in enumerate(SENTINELS.items()):
        row = places[at % len(places)]
        for question in rubric.questions:
            mark = _mark(seed, row.id, name, question.name, 0)
            calls.append(Call(row.id, name, question, text, "", False, 0, grading(question, row.prompt, text, mark)))
        calls += [_pair(row, name, text, row.reference, swapped, rubric, seed, 0) for swapped in (False, True)]
    return calls


def _pair(row: Pair, subject: str, first: str, second: str, swapped: bool, rubric: Rubric, seed: int, take: int) -> Call:
    one, two = (second, first) if swapped else (first, second)
    mark = _mark(seed, row.id, subject, str(swapped), take)
    return Call(row.id, subject, None, one, two, swapped, take, choosing(rubric.pairwise, row.prompt, one, two, mark))


def _mark(seed: int, *parts: str | int) -> str:
    """A word that stands in no answer, since the answers were written before the seed was drawn."""
    return sha256_json([seed, *parts])[:12]


def _drawn(calls: Sequence[Call], seed: int, what: str) -> list[Call]:
    return sorted(calls, key=lambda call: unit_interval(seed, what, call.key))
