"""What a judge found, and whether it can be believed at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.core.text import plural
from mlxtune.evaluation import ballot
from mlxtune.evaluation.ballot import Choice, Tally, tally
from mlxtune.evaluation.judge.batch import FIRST, SECOND, Call
from mlxtune.evaluation.judge.calibrate import Calibrated, calibrate
from mlxtune.evaluation.judge.rubric import Verdict, passes
from mlxtune.evaluation.judge.sentinels import SENTINELS
from mlxtune.evaluation.judge.session import Session
from mlxtune.evaluation.verdict import Comparison, ScoreComparison, compare, compare_scores, correct

PAIR = "a pair"
PROBLEMS = 0.2  # of the replies unusable, and the judge is broken too


@dataclass(frozen=True)
class JudgeReport:
    """``broken`` says, sentence by sentence, why the judge is not to be believed; empty when it held.

    ``pairs`` are wins and losses over both orders, in which a ``flips`` of ``both`` is a tie. ``same`` of ``repeated`` calls gave
    the same verdict again. ``problems`` counts replies that do not count, by kind, for each arm.
    """

    facts: dict[str, Any]
    broken: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    scores: tuple[ScoreComparison, ...]
    pairs: Tally
    flips: int
    both: int
    same: int
    repeated: int
    problems: dict[str, dict[str, int]]
    calibrated: Calibrated | None
    verdict: str


Said = dict[tuple[str, str, str, bool, int], Verdict]  # row, subject, question ("" for a pair), swapped, take


def build(session: Session, found: Mapping[str, Verdict], reader: Mapping[str, Choice], spent: float) -> JudgeReport:
    """The report on a finished session; ``reader`` are the user's blind votes by row, empty where there are none."""
    calls = session.calls
    said: Said = {_place(call): found[call.key] for call in calls}
    preferences, flips, both = _preferences(session, said)
    groups = {row.id: row.group for row in session.rows}
    pairs = tally("send", list(preferences.values()), [groups[id] for id in preferences])
    broken = _broken(session, calls, said)
    again = [(said[place], said[(*place[:4], 0)]) for place in said if place[4] == 1]
    usable = [(one, two) for one, two in again if one.value is not None and two.value is not None]
    comparisons, scores = _graded(session, said)
    verdict = ballot.sentence(pairs, session.first, session.second)
    return JudgeReport(
        facts={
            "judge": session.judge,
            "host": session.place,
            "consent": session.consent,
            "arms": [session.first, session.second],
            "rows": len(session.rows),
            "rubric": session.rubric.hash,
            "questions": {question.name: question.ask for question in session.rubric.questions},
            "calls": len(calls),
            "spent": spent,
        },
        broken=broken,
        comparisons=comparisons,
        scores=scores,
        pairs=pairs,
        flips=flips,
        both=both,
        same=sum(one.value == two.value for one, two in usable),
        repeated=len(usable),
        problems=_problems(calls, said),
        calibrated=calibrate(preferences, reader),
        verdict=f"Cannot tell. The judge is broken: {broken[0]}" if broken else verdict,
    )


def _place(call: Call) -> tuple[str, str, str, bool, int]:
    return call.row, call.subject, call.question.name if call.question else "", call.swapped, call.take


def _preferences(session: Session, said: Said) -> tuple[dict[str, Choice], int, int]:
    """For each row that differs, the arm preferred in both orders, or a tie; how many flipped, of how many read in both."""
    chosen: dict[str, Choice] = {}
    flips = both = 0
    for row in session.rows:
        if row.first == row.second:
            continue
        one, two = (said[(row.id, "pair", "", swapped, 0)] for swapped in (False, True))
        if one.problem or two.problem:
            continue
        both += 1
        straight, turned = _arm(one, False), _arm(two, True)
        flips += straight != turned
        chosen[row.id] = straight if straight == turned else "tie"
    return chosen, flips, both


def _arm(verdict: Verdict, swapped: bool) -> Choice:
    return "tie" if verdict.value == 0 else "first" if (verdict.value == 1) != swapped else "second"


def _graded(session: Session, said: Said) -> tuple[tuple[Comparison, ...], tuple[ScoreComparison, ...]]:
    """Each question's comparison, over the rows where both arms' replies count."""
    comparisons: list[Comparison] = []
    scores: list[ScoreComparison] = []
    for question in session.rubric.questions:
        kept = []
        for row in session.rows:
            one, two = (said[(row.id, arm, question.name, False, 0)] for arm in (FIRST, SECOND))
            if not one.problem and not two.problem and one.value is not None and two.value is not None:
                kept.append((row.group, one.value, two.value))
        if not kept:
            continue
        groups = [group for group, _, _ in kept]
        if question.anchors:
            values = [(one, two) for _, one, two in kept]
            scores.append(compare_scores(question.name, session.first, session.second, values, groups, session.seed))
        else:
            passed = [(bool(one), bool(two)) for _, one, two in kept]
            comparisons.append(compare(question.name, session.first, session.second, passed, groups))
    both: list[Comparison | ScoreComparison] = [*comparisons, *scores]
    done = correct(both)
    return tuple(item for item in done if isinstance(item, Comparison)), tuple(
        item for item in done if isinstance(item, ScoreComparison)
    )


def _broken(session: Session, calls: list[Call], said: Said) -> tuple[str, ...]:
    """One sentence for each sentinel that the judge passed on any question, and one for too many unusable replies."""
    passed = {(call.subject, _name(call)) for call in calls if call.subject in SENTINELS and _passed(call, said[_place(call)])}
    order = [*(question.name for question in session.rubric.questions), PAIR]
    told = []
    for name in SENTINELS:
        if on := [item for item in order if (name, item) in passed]:
            told.append(f"it passed the sentinel “{name}” on {', '.join(on)}.")
    unusable = sum(bool(verdict.problem) for verdict in said.values())
    if unusable > PROBLEMS * len(said):
        told.append(f"{unusable} of its {plural(len(said), 'reply', 'replies')} cannot be used.")
    return tuple(told)


def _name(call: Call) -> str:
    return call.question.name if call.question else PAIR


def _passed(call: Call, verdict: Verdict) -> bool:
    """Whether a sentinel was found good, with or without evidence; in a pair, whether it was preferred to the reference."""
    if call.question is None:
        return verdict.value == (2 if call.swapped else 1)
    return passes(call.question, verdict.value)


def _problems(calls: list[Call], said: Said) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for call in calls:
        if call.take == 0 and call.subject not in SENTINELS and (problem := said[_place(call)].problem):
            counts.setdefault(call.subject, Counter())[problem] += 1
    return {subject: dict(found.most_common()) for subject, found in counts.items()}
