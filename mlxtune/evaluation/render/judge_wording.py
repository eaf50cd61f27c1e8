"""Sentences about the results of blind sessions and judges."""

from __future__ import annotations

from mlxtune.core.text import plural
from mlxtune.evaluation.blind.votes import VoteTally
from mlxtune.evaluation.judge.calibration import JudgeCalibration
from mlxtune.evaluation.judge.judge_report import JudgeReport
from mlxtune.evaluation.statistics.agreement import Estimate
from mlxtune.present.labels import word

MODERATE = 0.4  # κ at which agreement counts as moderate (Landis and Koch 1977)


def tally_text(tally: VoteTally, first: str, second: str) -> str:
    """Return the verdict on one question of a blind session or a judge, with its interval in whole points."""
    decided = tally.wins + tally.losses
    if not decided:
        return f"Cannot tell. All {tally.ties} votes were ties."
    share, low, high = (round(100 * value) for value in (tally.share, tally.low, tally.high))
    ties = f" {plural(tally.ties, 'tie is', 'ties are')} not counted." if tally.ties else ""
    outcome = word(tally.outcome).capitalize()
    won = f"{second} won {tally.wins} of {plural(decided, 'vote')} against {first}"
    return f"{outcome}. {won} ({share}%, 95% interval: {low} to {high}).{ties}"


def judge_faults(report: JudgeReport) -> list[str]:
    """Return the reasons why a judge is unreliable; empty for a reliable one."""
    reasons = [
        f"it passed the sentinel “{fault.sentinel}” on {', '.join(fault.questions)}." for fault in report.faults if fault.sentinel
    ]
    if report.unusable:
        reasons.append(f"{report.unusable} of its {plural(report.facts['calls'], 'reply', 'replies')} are unusable.")
    return reasons


def judge_verdict(report: JudgeReport) -> str:
    """Return a judge's verdict in a sentence."""
    if faults := judge_faults(report):
        return f"Cannot tell. The judge is unreliable: {faults[0]}"
    first, second = report.facts["arms"]
    return tally_text(report.pairs, first, second)


def calibration_sentence(result: JudgeCalibration) -> str:
    """Describe the agreement in a sentence."""
    if result.kappa is None or result.kappa.value < MODERATE:
        return (
            f"The judge agrees with you on {result.agreed} of {result.rows} rows, little better than chance: trust your own votes."
        )
    return f"The judge agrees with you on {result.agreed} of {result.rows} rows, κ {result.kappa.value:.2f}."


def win_rates(result: JudgeCalibration, second: str) -> list[tuple[str, str]]:
    """Return the second arm's win rates by name: the rater's as estimated with the judge, by the votes alone, and the judge's."""
    powered, votes = result.win_rate.powered, result.win_rate.labels
    if result.win_rate.weight == 0:
        return [(f"{second} wins", f"{_interval(votes)} by your {plural(result.voted, 'vote')}; the judge's grades add nothing")]
    return [
        (
            f"{second} wins",
            f"{_interval(powered)} by your votes and the judge, as precise as {result.win_rate.effective_n:.0f} votes",
        ),
        ("your votes alone", f"{_interval(votes)}, {plural(result.voted, 'vote')}"),
        ("the judge alone", f"{100 * result.raw:.0f}%, {plural(result.units, 'pair')}"),
    ]


def _interval(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f}% ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
