"""Calibrate a judge against the user's blind votes on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from mlxtune.core.text import plural
from mlxtune.evaluation.blind.votes import ArmChoice
from mlxtune.evaluation.statistics.agreement import Estimate, kappa
from mlxtune.evaluation.statistics.prediction_powered import PoweredMean, prediction_powered_mean

MODERATE = 0.4  # κ at which agreement counts as moderate (Landis and Koch 1977)
_WINS: dict[ArmChoice, float] = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True)
class JudgeCalibration:
    """The agreement of judge and rater on the ``rows`` that both judged, its κ, and the second arm's win rate, with ties counted as half.

    ``raw`` is the win rate by the judge, and ``win_rate`` by the rater, who has voted on ``voted`` of ``units`` groups of rows.
    """

    rows: int
    agreed: int
    kappa: Estimate | None
    raw: float
    voted: int
    units: int
    win_rate: PoweredMean


def calibrate(judge: Mapping[str, ArmChoice], rater: Mapping[str, ArmChoice], groups: Mapping[str, str]) -> JudgeCalibration | None:
    """Compare the judge's preferences with the rater's row by row; ``None`` if they have no rows in common.

    The rater's win rate over all rows that the judge read is estimated by prediction-powered inference, which needs no assumption
    about the judge. ``groups`` maps each row to its group. A group counts as one unit, since a blind session draws groups at random.
    """
    shared = [id for id in judge if id in rater]
    if not shared:
        return None
    choices = [(judge[id], rater[id]) for id in shared]
    units: dict[str, list[str]] = {}
    for id in judge:
        units.setdefault(groups[id], []).append(id)
    voted = [ids for members in units.values() if (ids := [id for id in members if id in rater])]
    unvoted = [ids for ids in units.values() if not any(id in rater for id in ids)]
    return JudgeCalibration(
        rows=len(shared),
        agreed=sum(one == two for one, two in choices),
        kappa=kappa(choices),
        raw=fmean(_win_rate(judge, ids) for ids in units.values()),
        voted=len(voted),
        units=len(units),
        win_rate=prediction_powered_mean(
            [_win_rate(rater, ids) for ids in voted],
            [_win_rate(judge, ids) for ids in voted],
            [_win_rate(judge, ids) for ids in unvoted],
        ),
    )


def _win_rate(choices: Mapping[str, ArmChoice], ids: list[str]) -> float:
    return fmean(_WINS[choices[id]] for id in ids)


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
