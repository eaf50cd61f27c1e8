"""A judge session's report: whether the judge is reliable, and how far it agrees with the user's blind votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from mlxtune.core.files import write_json
from mlxtune.core.json_fields import load_record, to_json
from mlxtune.core.sequences import grouped
from mlxtune.evaluation.blind.votes import ArmChoice, VoteTally, tally_votes
from mlxtune.evaluation.judge.judge_session import FIRST, RIGHT, SECOND, SENTINELS, WRONG, JudgeCall, JudgeSession
from mlxtune.evaluation.judge.rubric import Grade, RubricQuestion, passes
from mlxtune.evaluation.statistics.agreement import kappa
from mlxtune.evaluation.statistics.intervals import Estimate, wilson
from mlxtune.evaluation.verdict import Comparison, Outcome, ScoreComparison, apply_holm, compare, compare_scores

if TYPE_CHECKING:  # the command line's help does not need numpy
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


FILE = "report.json"
VERSION = 7
PAIR = "a pair"
MAX_PROBLEMS = 0.2  # share of unusable replies above which the judge is unreliable


@dataclass(frozen=True)
class JudgeFacts:
    judge: str
    host: str
    consent: str
    arms: tuple[str, str]
    rows: int
    rubric: str
    questions: dict[str, str]
    calls: int
    spent: float


@dataclass(frozen=True)
class KnownAnswers:
    """A judge's grades of answers that are known: the references, of which it accepted ``accepted`` of ``right``, and other rows'
    references, of which it rejected ``rejected`` of ``wrong``. ``kappa`` is its agreement with the truth.
    """

    accepted: int
    right: int
    rejected: int
    wrong: int
    kappa: Estimate | None


@dataclass(frozen=True)
class JudgeReport:
    """The results of a judge session. The judge is unreliable if it passed a sentinel or too many of its replies are unusable."""

    facts: JudgeFacts
    outcome: Outcome  # ``cannot_tell`` if the judge is unreliable
    faults: dict[str, tuple[str, ...]]  # the sentinels that it passed, and the questions on which it did
    unusable: int  # the number of unusable replies, 0 if they are not too many
    comparisons: tuple[Comparison, ...]
    scores: tuple[ScoreComparison, ...]
    pairs: VoteTally  # wins and losses over both orders
    flips: int  # of ``both`` pairs, those in which the orders disagreed, which counts as a tie
    both: int
    same: int  # of the ``repeated`` calls, those with the same grade both times
    repeated: int
    problems: dict[str, dict[str, int]]  # the number of unusable replies by kind for each arm
    known: dict[str, KnownAnswers]  # by question about the reference
    calibrated: JudgeCalibration | None
    v: int = VERSION


def save(report: JudgeReport, folder: Path) -> None:
    write_json(folder / FILE, to_json(report))


def load_all(evaluation: Path, without: Path | None = None) -> list[JudgeReport]:
    """Load the judges' reports of an evaluation, but not that in ``without``. Raises ``InputError`` if one is of another version."""
    hint = "Delete it and run that judge again, whose replies are saved."
    files = (file for file in sorted(evaluation.glob(f"judge/*/{FILE}")) if file.parent != without)
    return [load_record(JudgeReport, file, VERSION, hint) for file in files]


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
        if call.repeat == 0 and call.subject not in (*SENTINELS, RIGHT, WRONG) and (problem := grades[_key(call)].problem):
            problems.setdefault(call.subject, Counter())[problem] += 1
    return JudgeReport(
        JudgeFacts(
            session.judge, session.host, session.consent, session.arms, len(session.rows), session.rubric.hash,
            {question.name: question.ask for question in session.rubric.questions}, len(calls), spent,
        ),
        "cannot_tell" if faults or unusable else pairs.outcome, faults, unusable, *_graded(session, grades), pairs, flips, both,
        same=sum(one.value == two.value for one, two in usable), repeated=len(usable),
        problems={subject: dict(by_subject.most_common()) for subject, by_subject in problems.items()},
        known={question.name: _known(question, calls, grades) for question in session.rubric.questions if question.about_reference},
        calibrated=calibrate(preferences, rater, groups),
    )  # fmt: skip


def _known(question: RubricQuestion, calls: Sequence[JudgeCall], grades: Grades) -> KnownAnswers:
    truths = {RIGHT: True, WRONG: False}
    graded = [
        (truths[call.subject], passes(question, grades[_key(call)].value))
        for call in calls
        if call.question == question and call.subject in truths and not grades[_key(call)].problem
    ]
    counts = Counter(graded)
    right, wrong = counts[True, True] + counts[True, False], counts[False, True] + counts[False, False]
    return KnownAnswers(counts[True, True], right, counts[False, False], wrong, kappa(graded))


def _key(call: JudgeCall) -> tuple[str, str, str, bool, int]:
    return call.row, call.subject, call.question.name if call.question else "", call.swapped, call.repeat


def _preferences(session: JudgeSession, grades: Grades) -> tuple[dict[str, ArmChoice], int, int]:
    """Return the arm preferred in both orders (or a tie) for each row with different answers, and the counts of flips and pairs."""

    def arm(grade: Grade, swapped: bool) -> ArmChoice:
        return "tie" if grade.value == 0 else "first" if (grade.value == 1) != swapped else "second"

    pairs: dict[str, set[ArmChoice]] = {}
    for row in session.rows:
        both = [grades[(row.id, "pair", "", swapped, 0)] for swapped in (False, True)] if row.first != row.second else []
        if both and not any(grade.problem for grade in both):
            pairs[row.id] = {arm(both[0], False), arm(both[1], True)}
    agreed: dict[str, ArmChoice] = {id: next(iter(found)) if len(found) == 1 else "tie" for id, found in pairs.items()}
    return agreed, sum(len(found) > 1 for found in pairs.values()), len(pairs)


def _graded(session: JudgeSession, grades: Grades) -> tuple[tuple[Comparison, ...], tuple[ScoreComparison, ...]]:
    """Compare the arms by each question, and by those about the reference also in the rows that require each conditional disclaimer."""
    comparisons: list[Comparison | ScoreComparison] = []
    texts = dict.fromkeys(name for row in session.rows for name in row.required)
    asked = [(item, name) for item in session.rubric.questions for name in ("", *(texts if item.about_reference else ()))]
    for question, required in asked:
        values, groups = [], []
        for row in session.rows:
            if (question.about_reference and not row.reference) or (required and required not in row.required):
                continue
            one, two = (grades[(row.id, arm, question.name, False, 0)] for arm in (FIRST, SECOND))
            if not one.problem and not two.problem and one.value is not None and two.value is not None:
                values.append((one.value, two.value))
                groups.append(row.group)
        of = f"{question.name}, {required}" if required else question.name, *session.arms
        if question.anchors and len(set(groups)) > 1:
            comparisons.append(compare_scores(*of, values, groups))
        elif groups and not question.anchors:
            comparisons.append(compare(*of, [(bool(one), bool(two)) for one, two in values], groups))
    adjusted = apply_holm(comparisons)
    return (
        tuple(item for item in adjusted if isinstance(item, Comparison)),
        tuple(item for item in adjusted if isinstance(item, ScoreComparison)),
    )


def _sentinel_faults(session: JudgeSession, calls: list[JudgeCall], grades: Grades) -> dict[str, tuple[str, ...]]:
    """Return the sentinels that passed a question, with or without evidence."""
    passed = set()
    for call in calls:
        if call.subject in SENTINELS:
            value, is_best = grades[_key(call)].value, 2 if call.swapped else 1  # of a pair: it was preferred to the reference
            if passes(call.question, value) if call.question else value == is_best:
                passed.add((call.subject, call.question.name if call.question else PAIR))
    order = [*(question.name for question in session.rubric.questions), PAIR]
    questions = {name: tuple(item for item in order if (name, item) in passed) for name in SENTINELS}
    return {name: passed_on for name, passed_on in questions.items() if passed_on}


@dataclass(frozen=True)
class PoweredMean:
    """A prediction-powered mean with its 95% interval, and the interval of the ``labels`` alone."""

    labels: Estimate
    powered: Estimate
    effective_n: float  # how many labels alone would be as precise
    weight: float  # of the predictions, from 0 to 1


def prediction_powered_mean(labels: Sequence[float], predictions: Sequence[float], unlabeled: Sequence[float]) -> PoweredMean:
    """Estimate the mean label of independent units, from ``labels`` with their ``predictions`` and predictions for others.

    All values are between 0 and 1, and the labeled units are a random sample of all. The estimate is the power-tuned PPI++
    (Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453). Each label's weight of the predictions is estimated from the other labels
    (cross-fitting: Zrnic and Candès 2024, PNAS 121:e2322083121), so the estimate is unbiased however poor and few the predictions are.
    With few labels, its normal interval is too narrow, and has zero width if every label agrees with its prediction. The variances
    therefore include two additional labels, both predicted wrongly, and the interval is Wilson's for the effective sample size, which
    covers about as often as Wilson's for the labels alone.
    """
    import numpy as np

    count, others = len(labels), len(unlabeled)
    ys, fs, us = (np.array([*values, *two]) for values, two in ((labels, (1, 0)), (predictions, (0, 1)), (unlabeled, (0, 1))))
    weights = _weights(ys, fs, 1 + count / others) if others else np.zeros(count)
    mean, weight, center = (float(values.mean()) for values in (ys[:-2], weights, us[:-2] if others else np.zeros(1)))
    powered = mean + float((weights * (center - fs[:-2])).mean())
    label_variance = _variance(ys)
    variance = _variance(ys - weight * fs) + weight**2 * _variance(us)
    effective_n = count * max(1.0, label_variance / variance)
    return PoweredMean(_estimate(mean, count), _estimate(min(1.0, max(0.0, powered)), effective_n), effective_n, weight)


def _weights(ys: Array, fs: Array, ratio: float) -> Array:
    """Return, for each label, the weight that the other labels and the last two, additional ones give the predictions, from 0 to 1."""
    y, f, rest = ys[:-2], fs[:-2], len(ys) - 1
    covariance = (ys @ fs - y * f) - (ys.sum() - y) * (fs.sum() - f) / rest
    weights: Array = (covariance / (fs @ fs - f * f - (fs.sum() - f) ** 2 / rest) / ratio).clip(0, 1)
    return weights


def _variance(values: Array) -> float:
    """Return the variance of a mean of ``values`` without the last two."""
    return float(values.var(ddof=1)) / max(1, len(values) - 2)


def _estimate(mean: float, size: float) -> Estimate:
    low, high = wilson(mean * size, size)
    return Estimate(low, mean, high)


_WINS: dict[ArmChoice, float] = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True)
class JudgeCalibration:
    """The agreement of judge and rater on the ``rows`` that both judged, its κ, and the second arm's win rate, with ties counted as half."""

    rows: int
    agreed: int
    kappa: Estimate | None
    raw: float  # the win rate by the judge
    voted: int  # of ``units`` groups of rows, by the rater
    units: int
    win_rate: PoweredMean  # by the rater


def calibrate(judge: Mapping[str, ArmChoice], rater: Mapping[str, ArmChoice], groups: Mapping[str, str]) -> JudgeCalibration | None:
    """Compare the judge's preferences with the rater's row by row; ``None`` if they have no rows in common.

    The rater's win rate over all rows that the judge read is estimated by prediction-powered inference, which needs no assumption
    about the judge. ``groups`` maps each row to its group. A group counts as one unit, since a blind session draws groups at random.
    """
    shared = [id for id in judge if id in rater]
    if not shared:
        return None
    choices = [(judge[id], rater[id]) for id in shared]
    units = grouped((groups[id], id) for id in judge)
    voted = [ids for members in units.values() if (ids := [id for id in members if id in rater])]
    unvoted = [ids for ids in units.values() if not any(id in rater for id in ids)]
    rates = (
        [fmean(_WINS[by[id]] for id in ids) for ids in some] for by, some in ((rater, voted), (judge, voted), (judge, unvoted), (judge, units.values()))
    )  # fmt: skip
    labels, predictions, unlabeled, all_rates = rates
    agreed, win_rate = sum(one == two for one, two in choices), prediction_powered_mean(labels, predictions, unlabeled)
    return JudgeCalibration(len(shared), agreed, kappa(choices), fmean(all_rates), len(voted), len(units), win_rate)
