"""The chart of a run: the metrics that it can draw, and the widget."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isfinite
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.runs.state import RunState, Step, Validation
from mlxtune.tui.render.charts import Curve, Points, Series, draw_chart, plot_size, scale, smooth
from mlxtune.tui.render.text import Part, line
from mlxtune.tui.widgets import FocusPanel
from mlxtune.workspace.index import RunView

_NO_VALUE: list[Part] = [("–", "bold $foreground")]


@dataclass(frozen=True)
class ChartMetric:
    """A metric to draw: TRL's ``name`` for it (empty for the loss) and its label in the legend.

    ``rival`` is drawn as a second line. ``percent`` is for rates, which are recorded from 0 to 1.
    """

    id: str
    title: str
    label: str = "smoothed"
    name: str = ""
    rival: str = ""
    rival_label: str = ""
    percent: bool = False

    def format(self, value: float) -> str:
        """Return a value with two decimals, or as a whole percentage."""
        return "NaN" if value != value else f"{value:.0f}%" if self.percent else f"{value:.2f}"


LOSS = ChartMetric("loss", "Loss")
METRICS = (
    LOSS,
    ChartMetric("rewards", "Rewards", "chosen", "rewards/chosen", "rewards/rejected", "rejected"),
    ChartMetric("margins", "Reward margin", name="rewards/margins"),
    ChartMetric("accuracy", "Reward accuracy", name="rewards/accuracies", percent=True),
    ChartMetric("kl", "KL from the reference", name="kl"),
)


def available_metrics(state: RunState) -> tuple[ChartMetric, ...]:
    recent = (*(step.metrics for step in state.steps[-50:]), *(item.metrics for item in state.validations[-1:]))
    names = {name for metrics in recent for name, _ in metrics}
    return tuple(metric for metric in METRICS if not metric.name or metric.name in names)


def build_curve(state: RunState, metric: ChartMetric = LOSS, other: RunState | None = None) -> Curve:
    """Return the curve of a metric in ``state``, with the smoothed line of ``other`` for comparison."""
    raw = _values(state.steps, metric, metric.name)
    beside: list[Series] = []
    if other is not None:
        beside.append(Series(_smoothed(other, metric, metric.name), "$muted"))
    if metric.rival:
        beside.append(Series(_smoothed(state, metric, metric.rival), "bold $muted"))
        raw = []  # raw points would hide two smoothed lines
    validations = _values(state.validations, metric, metric.name)
    limits = (0.0, 100.0) if metric.percent else None
    return Curve(raw, _smoothed(state, metric, metric.name), validations, state.total, tuple(beside), limits)


def _values(items: Sequence[Step] | Sequence[Validation], metric: ChartMetric, name: str) -> list[tuple[float, float]]:
    """Return ``(step, value)`` pairs. Steps without a value are omitted."""
    if not name:
        return [(float(item.step), item.loss) for item in items]
    factor = 100.0 if metric.percent else 1.0
    values = ((item.step, value) for item in items for key, value in item.metrics if key == name)
    return [(float(step), value * factor) for step, value in values if isfinite(value)]


def _smoothed(state: RunState, metric: ChartMetric, name: str) -> Points:
    """Return the smoothed values of the steps, or the values of the validations if steps never have any."""
    return smooth(_values(state.steps, metric, name)) or (_values(state.validations, metric, name) if name else [])


class RunChart(FocusPanel):
    """A chart of a run's metric over all steps or, if zoomed, the last fifth. It is redrawn only if something has changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cross(-1)", "an earlier step", id="chart.left"),
        Binding("right", "cross(1)", "a later step", id="chart.right"),
        Binding("shift+left", "cross(-10)", "ten columns earlier", id="chart.far-left"),
        Binding("shift+right", "cross(10)", "ten columns later", id="chart.far-right"),
        Binding("escape", "uncross", "hide the cursor", id="chart.whole"),
    ]

    class CursorMoved(Message):
        """The cursor moved to another step, or was hidden."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(draw=self._draw, **kwargs)
        self._state: RunState | None = None
        self._other: RunView | None = None
        self._curve = Curve((), (), (), 0)
        self._chart = lru_cache(1)(partial(draw_chart, self._curve))  # an unchanged chart is drawn once
        self.metric = LOSS
        self.zoomed = False
        self.cursor: float | None = None  # a step

    def set(self, state: RunState, metric: ChartMetric, other: RunView | None, zoomed: bool) -> None:
        """Draw ``metric`` for ``state``, and for ``other`` as a comparison. Do nothing if nothing has changed."""
        if state is self._state and other is self._other and (metric, zoomed) == (self.metric, self.zoomed):
            return
        if self._state and self._state.started != state.started:
            self.cursor = None  # another run
        self._state, self.metric, self._other, self.zoomed = state, metric, other, zoomed
        self._curve = build_curve(state, metric, other.state if other else None)
        self._chart = lru_cache(1)(partial(draw_chart, self._curve))
        self.refresh()

    def legend(self, width: int) -> Content:
        """Return the legend with the last values, or the values at the cursor. Labels are dropped if ``width`` is small."""
        curve, metric, step = self._curve, self.metric, self.cursor
        position: list[Part] = [("step ", "$muted"), (f"{step:,.0f}  ", "bold $foreground")] if step is not None else []
        raw: list[Part] = [("⠒⠒", "$faint"), " train ", *self._value(curve.raw, step), " "] if curve.raw else []
        full: list[Part] = [("⠒⠒", "bold $primary"), f" {metric.label} ", *self._value(curve.smooth, step, last=True)]
        brief: list[Part] = [("⠒⠒", "bold $primary"), " ", *self._value(curve.smooth, step, last=True)]
        names = [self._other.name] if self._other else []
        for series, name in zip(curve.beside, [*names, metric.rival_label], strict=False):
            ended = step is not None and bool(series.points) and step > series.points[-1][0]
            value = _NO_VALUE if ended else self._value(series.points, step, last=True)
            full += ["  ", ("⠒⠒", series.style), f" {name} ", *value]
            brief += ["  ", ("⠒⠒", series.style), " ", *([f"{name} "] if width >= 40 else []), *value]
        if curve.validations:
            value = self._value(curve.validations, step, last=True, near=True)
            full += ["  ", ("◆", "$second"), " validation ", *value]
            brief += ["  ", ("◆", "$second"), " ", *value]
        options = [line(*position, *raw, *full), line(*position, *full), line(*position, *brief), line(*position)]
        return next((option for option in options if option.cell_length <= width), Content(""))

    def _value(self, points: Points, step: float | None, *, last: bool = False, near: bool = False) -> list[Part]:
        """Return the value of the last point at or before ``step`` or, without a step, the last value. ``near`` adds its step."""
        if not points or (step is None and not last):
            return _NO_VALUE if last else []
        x, y = points[-1]
        if step is not None:
            index = bisect_left(points, step + 0.5, key=lambda point: point[0]) - 1
            if index < 0:
                return _NO_VALUE
            x, y = points[index]
        value: list[Part] = [(self.metric.format(y), "bold $foreground")]
        return [*value, f" at {x:,.0f}"] if near and step is not None and x != step else value

    def action_cross(self, columns: int) -> None:
        """Move the cursor by ``columns`` to a step; the first time, move it to the last step."""
        points = self._curve.raw or self._curve.smooth
        width, height = plot_size(self.size.width, self.size.height)
        if not points or width < 8 or height < 2:
            return
        first, end = scale(self._curve, self.zoomed, width, height).x
        steps = [x for x, _ in points if first <= x <= end] or [points[-1][0]]
        if self.cursor is None:
            self.cursor = steps[-1]
        else:
            here = bisect_left(steps, self.cursor)
            there = bisect_left(steps, self.cursor + columns * (end - first) / width)
            there = max(there, here + 1) if columns > 0 else min(there, here - 1)  # if columns are wider than steps
            self.cursor = steps[max(0, min(there, len(steps) - 1))]
        self._show_cursor()

    def action_uncross(self) -> None:
        self.cursor = None
        self._show_cursor()

    def _show_cursor(self) -> None:
        self.refresh()
        self.post_message(self.CursorMoved())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "uncross" or self.cursor is not None

    def _draw(self, width: int, height: int) -> Content:
        return self._chart(width, height, self.zoomed, self.cursor)
