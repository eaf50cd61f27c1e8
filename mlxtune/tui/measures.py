"""What can be drawn of a run over its steps: the loss, and what preference training watches beside it. Names are TRL's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from mlxtune.runs.state import RunState, Step, Validation
from mlxtune.tui.plot import Curve, Points, Series, smoothed


@dataclass(frozen=True)
class Measure:
    """``metric`` is what the accent draws, called ``word`` in the legend, and ``rival`` a second line. A share is drawn in percent."""

    id: str
    title: str
    word: str = "smoothed"
    metric: str = ""
    rival: str = ""
    rival_word: str = ""
    share: bool = False

    def number(self, value: float) -> str:
        """A value as figures: two decimals, a share in whole points."""
        return "NaN" if value != value else f"{value:.0f} %" if self.share else f"{value:.2f}"


LOSS = Measure("loss", "Loss")
MEASURES = (
    LOSS,
    Measure("rewards", "Rewards", "chosen", "rewards/chosen", "rewards/rejected", "rejected"),
    Measure("margins", "Margin of rewards", metric="rewards/margins"),
    Measure("accuracy", "Accuracy", metric="rewards/accuracies", share=True),
    Measure("kl", "KL from the reference", metric="kl"),
)


def measures(state: RunState) -> tuple[Measure, ...]:
    """Those of which ``state`` has any value."""
    told = (*(step.metrics for step in state.steps[-50:]), *(item.metrics for item in state.validations[-1:]))
    known = {name for metrics in told for name, _ in metrics}
    return tuple(measure for measure in MEASURES if not measure.metric or measure.metric in known)


def values(items: Sequence[Step] | Sequence[Validation], measure: Measure, metric: str) -> list[tuple[float, float]]:
    """``(step, value)`` of a metric, or of the loss where ``metric`` is empty; what was not measured at a step is left out."""
    if not metric:
        return [(float(item.step), item.loss) for item in items]
    size = 100.0 if measure.share else 1.0
    return [
        (float(item.step), value * size) for item in items for name, value in item.metrics if name == metric and isfinite(value)
    ]


def curve(state: RunState, measure: Measure = LOSS, other: RunState | None = None) -> Curve:
    """What is drawn of ``state``; of ``other`` the smoothed line beside it."""
    raw = values(state.steps, measure, measure.metric)
    beside: list[Series] = []
    if other is not None:
        beside.append(Series(_line(other, measure, measure.metric), "$muted"))
    if measure.rival:
        beside.append(Series(_line(state, measure, measure.rival), "bold $muted"))
        raw = []  # two smoothed lines are enough to compare
    smooth = _line(state, measure, measure.metric)
    marks = values(state.validations, measure, measure.metric)
    return Curve(raw, smooth, marks, state.total, tuple(beside), (0.0, 100.0) if measure.share else None)


def _line(state: RunState, measure: Measure, metric: str) -> Points:
    """The smoothed values of the steps, or those of the validations where steps have none."""
    return smoothed(values(state.steps, measure, metric)) or values(state.validations, measure, metric)
