"""Prediction-powered inference: a mean of few labels, made more precise by predictions for many more units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.evaluation.statistics.agreement import Estimate
from mlxtune.evaluation.statistics.intervals import wilson


@dataclass(frozen=True)
class PoweredMean:
    """A prediction-powered mean with its 95% interval, and the interval of the ``labels`` alone.

    The estimate is as precise as ``effective_n`` labels alone would be. ``weight`` is the weight of the predictions, from 0 to 1.
    """

    labels: Estimate
    powered: Estimate
    effective_n: float
    weight: float


def prediction_powered_mean(labels: Sequence[float], predictions: Sequence[float], unlabeled: Sequence[float]) -> PoweredMean:
    """Estimate the mean label of independent units, from ``labels`` with their ``predictions`` and predictions for others.

    All values are between 0 and 1, and the labeled units are a random sample of all. The estimate is the power-tuned PPI++
    (Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453): unbiased however poor the predictions are, because the labels measure
    their error. With few labels, its normal interval is too narrow, and has zero width if every label agrees with its prediction.
    The variances therefore include two additional labels, both predicted wrongly, and the interval is Wilson's for the effective
    sample size. Raises ``ValueError`` if there are no labels or the lengths differ.
    """
    count = len(labels)
    if not labels or count != len(predictions):
        raise ValueError(f"there are {count} labels but {len(predictions)} predictions for them")
    label_parts = [*_deviations([*labels, 1.0, 0.0]), *([0.0] * (len(unlabeled) + 2))]
    prediction_parts = [*(-part for part in _deviations([*predictions, 0.0, 1.0])), *_deviations([*unlabeled, 0.0, 1.0])]
    weight = _dot(label_parts, prediction_parts) / -_dot(prediction_parts, prediction_parts)
    weight = min(1.0, max(0.0, weight)) if unlabeled else 0.0
    parts = [one + weight * two for one, two in zip(label_parts, prediction_parts, strict=True)]
    effective_n = count * _dot(label_parts, label_parts) / _dot(parts, parts)
    mean = math.fsum(labels) / count
    difference = math.fsum(unlabeled) / len(unlabeled) - math.fsum(predictions) / count if unlabeled else 0.0
    powered = min(1.0, max(0.0, mean + weight * difference))
    return PoweredMean(_estimate(mean, count), _estimate(powered, effective_n), effective_n, weight)


def _deviations(values: Sequence[float]) -> list[float]:
    """Return deviations whose squares add up to the variance of a mean of ``values`` without the last two."""
    mean, real = math.fsum(values) / len(values), max(1, len(values) - 2)
    return [(value - mean) / math.sqrt(real * (len(values) - 1)) for value in values]


def _dot(one: Sequence[float], two: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, two, strict=True))


def _estimate(mean: float, size: float) -> Estimate:
    low, high = wilson(mean * size, size)
    return Estimate(low, mean, high)
