"""Calibrate a judge against the user's blind votes on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from mlxtune.evaluation.blind.votes import ArmChoice
from mlxtune.evaluation.statistics.agreement import Estimate, kappa
from mlxtune.evaluation.statistics.intervals import wilson

if TYPE_CHECKING:  # the command line's help does not need numpy
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


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
    covers about as often as Wilson's for the labels alone. Raises ``ValueError`` if there are no labels or the lengths differ.
    """
    import numpy as np

    count, others = len(labels), len(unlabeled)
    if not labels or count != len(predictions):
        raise ValueError(f"there are {count} labels but {len(predictions)} predictions for them")
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
