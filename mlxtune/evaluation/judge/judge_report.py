"""A judge session's report, and whether the judge is reliable."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from mlxtune.evaluation.blind.votes import ArmChoice, VoteTally, tally_votes
from mlxtune.evaluation.judge.batch import FIRST, SECOND, SENTINELS, JudgeCall
from mlxtune.evaluation.judge.calibration import JudgeCalibration, calibrate
from mlxtune.evaluation.judge.judge_session import JudgeSession
from mlxtune.evaluation.judge.rubric import Grade, passes
from mlxtune.evaluation.verdict import Comparison, Outcome, ScoreComparison, apply_holm, compare, compare_scores

FILE = "report.json"
VERSION = 4
PAIR = "a pair"
MAX_PROBLEMS = 0.2  # share of unusable replies above which the judge is unreliable


class JudgeFacts(TypedDict):
    """The facts of a session: the arms, the judge, and the cost."""

    judge: str
    host: str
    consent: str
    arms: list[str]
    rows: int
    rubric: str
    questions: dict[str, str]
    calls: int
    spent: float


@dataclass(frozen=True)
class SentinelFault:
    """A sentinel that the judge passed, and the questions on which it did."""

    sentinel: str
    questions: tuple[str, ...]


@dataclass(frozen=True)
class JudgeReport:
    """The results of a judge session. The judge is unreliable if it passed a sentinel or too many of its replies are unusable."""

    facts: JudgeFacts
    outcome: Outcome  # ``cannot_tell`` if the judge is unreliable
    faults: tuple[SentinelFault, ...]  # the sentinels that it passed
    unusable: int  # the number of unusable replies, 0 if they are not too many
    comparisons: tuple[Comparison, ...]
    scores: tuple[ScoreComparison, ...]
    pairs: VoteTally  # wins and losses over both orders
    flips: int  # of ``both`` pairs, those in which the orders disagreed, which counts as a tie
    both: int
    same: int  # of the ``repeated`` calls, those with the same grade both times
    repeated: int
    problems: dict[str, dict[str, int]]  # the number of unusable replies by kind for each arm
    calibrated: JudgeCalibration | None


Grades = dict[tuple[str, str, str, bool, int], Grade]  # row, subject, question ("" for a pair), swapped, repeat


def build_judge_report(
    session: JudgeSession, by_key: Mapping[str, Grade], rater: Mapping[str, ArmChoice], spent: float
) -> JudgeReport:
    """Build the report of a finished session; ``rater`` has the user's blind votes by row, if any."""
    calls = session.calls
    grades: Grades = {_key(call): by_key[call.key] for call in calls}
    preferences, flips, both = _preferences(session, grades)
    groups = {row.id: row.group for row in session.rows}
    pairs = tally_votes("send", list(preferences.values()), [groups[id] for id in preferences])
    faults = _sentinel_faults(session, calls, grades)
    unusable = sum(bool(grade.problem) for grade in grades.values())
    unusable = unusable if unusable > MAX_PROBLEMS * len(grades) else 0
    repeats = [(grades[key], grades[(*key[:4], 0)]) for key in grades if key[4] == 1]
    usable = [(one, two) for one, two in repeats if one.value is not None and two.value is not None]
    problems: dict[str, Counter[str]] = {}
    for call in calls:
        if call.repeat == 0 and call.subject not in SENTINELS and (problem := grades[_key(call)].problem):
            problems.setdefault(call.subject, Counter())[problem] += 1
    comparisons, scores = _graded(session, grades)
    return JudgeReport(
        facts={
            "judge": session.judge,
            "host": session.host,
            "consent": session.consent,
            "arms": [session.first, session.second],
            "rows": len(session.rows),
            "rubric": session.rubric.hash,
            "questions": {question.name: question.ask for question in session.rubric.questions},
            "calls": len(calls),
            "spent": spent,
        },
        outcome="cannot_tell" if faults or unusable else pairs.outcome,
        faults=faults,
        unusable=unusable,
        comparisons=comparisons,
        scores=scores,
        pairs=pairs,
        flips=flips,
        both=both,
        same=sum(one.value == two.value for one, two in usable),
        repeated=len(usable),
        problems={subject: dict(by_subject.most_common()) for subject, by_subject in problems.items()},
        calibrated=calibrate(preferences, rater, groups),
    )


def _key(call: JudgeCall) -> tuple[str, str, str, bool, int]:
    return call.row, call.subject, call.question.name if call.question else "", call.swapped, call.repeat


def _preferences(session: JudgeSession, grades: Grades) -> tuple[dict[str, ArmChoice], int, int]:
    """Return the arm preferred in both orders (or a tie) for each row with different answers, and the counts of flips and pairs."""
    choices: dict[str, ArmChoice] = {}
    flips = both = 0
    for row in session.rows:
        if row.first == row.second:
            continue
        one, two = (grades[(row.id, "pair", "", swapped, 0)] for swapped in (False, True))
        if one.problem or two.problem:
            continue
        both += 1
        straight, swapped_choice = _arm(one, False), _arm(two, True)
        flips += straight != swapped_choice
        choices[row.id] = straight if straight == swapped_choice else "tie"
    return choices, flips, both


def _arm(grade: Grade, swapped: bool) -> ArmChoice:
    return "tie" if grade.value == 0 else "first" if (grade.value == 1) != swapped else "second"


def _graded(session: JudgeSession, grades: Grades) -> tuple[tuple[Comparison, ...], tuple[ScoreComparison, ...]]:
    comparisons: list[Comparison] = []
    scores: list[ScoreComparison] = []
    for question in session.rubric.questions:
        rows = []
        for row in session.rows:
            one, two = (grades[(row.id, arm, question.name, False, 0)] for arm in (FIRST, SECOND))
            if not one.problem and not two.problem and one.value is not None and two.value is not None:
                rows.append((row.group, one.value, two.value))
        groups = [group for group, _, _ in rows]
        if len(set(groups)) < (2 if question.anchors else 1):
            continue
        if question.anchors:
            values = [(one, two) for _, one, two in rows]
            scores.append(compare_scores(question.name, session.first, session.second, values, groups))
        else:
            passed = [(bool(one), bool(two)) for _, one, two in rows]
            comparisons.append(compare(question.name, session.first, session.second, passed, groups))
    items: list[Comparison | ScoreComparison] = [*comparisons, *scores]
    adjusted = apply_holm(items)
    return (
        tuple(item for item in adjusted if isinstance(item, Comparison)),
        tuple(item for item in adjusted if isinstance(item, ScoreComparison)),
    )


def _sentinel_faults(session: JudgeSession, calls: list[JudgeCall], grades: Grades) -> tuple[SentinelFault, ...]:
    """Return the sentinels that passed a question, with or without evidence."""
    passed = set()
    for call in calls:
        if call.subject in SENTINELS:
            value, is_best = grades[_key(call)].value, 2 if call.swapped else 1  # of a pair: it was preferred to the reference
            if passes(call.question, value) if call.question else value == is_best:
                passed.add((call.subject, call.question.name if call.question else PAIR))
    order = [*(question.name for question in session.rubric.questions), PAIR]
    questions = {name: tuple(item for item in order if (name, item) in passed) for name in SENTINELS}
    return tuple(SentinelFault(name, passed_on) for name, passed_on in questions.items() if passed_on)
