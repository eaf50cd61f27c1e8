"""Calibrate a judge against the user's blind votes on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from mlxtune.evaluation.blind.votes import ArmChoice
from mlxtune.evaluation.statistics.agreement import Estimate, kappa
from mlxtune.evaluation.statistics.prediction_powered import PoweredMean, prediction_powered_mean

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
