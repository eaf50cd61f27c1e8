"""The chart of a run: drawn anew only when the run, the size, or what is asked of it has changed."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.runs.state import RunState
from mlxtune.tui.draw import Part, line
from mlxtune.tui.measures import LOSS, Measure, curve
from mlxtune.tui.plot import Curve, Points, chart, plane, scale
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.widgets.pane import Pane

ABOUT = (
    "The run over its steps: each step faint, their smoothed course in colour, a ◆ for each validation. The axis spans the whole run, so "
    "the empty part is the time left. Left and right put a line on a step; its values stand above."
)


class RunChart(Pane):
    """A measure of a run over the steps of the whole run or, zoomed, of its last fifth; ``cross`` is the step that is looked at."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cross(-1)", "look at an earlier step", id="chart.left"),
        Binding("right", "cross(1)", "look at a later step", id="chart.right"),
        Binding("shift+left", "cross(-10)", "ten columns earlier", id="chart.far-left"),
        Binding("shift+right", "cross(10)", "ten columns later", id="chart.far-right"),
        Binding("escape", "uncross", "look at the whole again", id="chart.whole"),
    ]

    @dataclass
    class Crossed(Message):
        """Another step is looked at, or none any more."""

        pane: RunChart

        @property
        def control(self) -> RunChart:
            return self.pane

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(about=ABOUT, picture=self._draw, **kwargs)
        self._state: RunState | None = None
        self._other: RunView | None = None
        self._curve = Curve((), (), (), 0)
        self._done: tuple[object, Content] | None = None  # what was drawn of the curve, and how it was asked for
        self.measure = LOSS
        self.zoomed = False
        self.cross: float | None = None

    def set(self, state: RunState, measure: Measure, other: RunView | None, zoomed: bool) -> None:
        """Draw ``measure`` of ``state``, and of ``other`` beside it. The same as before costs nothing."""
        if state is self._state and other is self._other and (measure, zoomed) == (self.measure, self.zoomed):
            return
        if self._state and self._state.started != state.started:
            self.cross = None  # another run
        self._state, self.measure, self._other, self.zoomed = state, measure, other, zoomed
        self._curve, self._done = curve(state, measure, other.state if other else None), None
        self.refresh()

    def legend(self, width: int) -> Content:
        """What the signs mean, with the last values, or those at the step that is looked at; in signs alone where ``width`` is small."""
        drawn, measure = self._curve, self.measure
        at = self.cross
        where: list[Part] = [("step ", "$muted"), (f"{at:,.0f}  ", "bold $foreground")] if at is not None else []
        raw: list[Part] = [("⠒⠒", "$faint"), " train ", *self._value(drawn.raw, at), " "] if drawn.raw else []
        words: list[Part] = [("⠒⠒", "bold $primary"), f" {measure.word} ", *self._value(drawn.smooth, at, last=True)]
        signs: list[Part] = [("⠒⠒", "bold $primary"), " ", *self._value(drawn.smooth, at, last=True)]
        names = [self._other.name] if self._other else []
        for series, name in zip(drawn.beside, [*names, measure.rival_word], strict=False):
            ended = at is not None and bool(series.points) and at > series.points[-1][0]
            value = [("–", "bold $foreground")] if ended else self._value(series.points, at, last=True)
            words += ["  ", ("⠒⠒", series.style), f" {name} ", *value]
            signs += ["  ", ("⠒⠒", series.style), " ", *([f"{name} "] if width >= 40 else []), *value]
        if drawn.validations:
            value = self._value(drawn.validations, at, last=True, near=True)
            words += ["  ", ("◆", "$second"), " validation ", *value]
            signs += ["  ", ("◆", "$second"), " ", *value]
        choices = [line(*where, *raw, *words), line(*where, *words), line(*where, *signs), line(*where)]
        return next((choice for choice in choices if choice.cell_length <= width), Content(""))

    def _value(self, points: Points, at: float | None, *, last: bool = False, near: bool = False) -> list[Part]:
        """The value at a step: of the last point at or before it, or the last of all; ``near`` says where that point is."""
        if not points or (at is None and not last):
            return [("–", "bold $foreground")] if last else []
        found = points[-1]
        if at is not None:
            index = bisect_left(points, at + 0.5, key=lambda point: point[0]) - 1
            if index < 0:
                return [("–", "bold $foreground")]
            found = points[index]
        value: list[Part] = [(self.measure.number(found[1]), "bold $foreground")]
        return [*value, f" at {found[0]:,.0f}"] if near and at is not None and found[0] != at else value

    def action_cross(self, by: int) -> None:
        """Move the line by as many columns, onto a step; the first press puts it on the last step."""
        points = self._curve.raw or self._curve.smooth
        columns, rows = plane(self.size.width, self.size.height)
        if not points or columns < 8 or rows < 2:
            return
        first, end = scale(self._curve, self.zoomed, columns, rows).x
        seen = [x for x, _ in points if first <= x <= end] or [points[-1][0]]
        if self.cross is None:
            self.cross = seen[-1]
        else:
            now = bisect_left(seen, self.cross)
            there = bisect_left(seen, self.cross + by * (end - first) / columns)
            there = max(there, now + 1) if by > 0 else min(there, now - 1)  # where columns are wider than steps
            self.cross = seen[max(0, min(there, len(seen) - 1))]
        self.refresh()
        self.post_message(self.Crossed(self))

    def action_uncross(self) -> None:
        self.cross = None
        self.refresh()
        self.post_message(self.Crossed(self))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "uncross" or self.cross is not None

    def _draw(self, width: int, height: int) -> Content:
        asked = (width, height, self.zoomed, self.cross)
        if self._done is None or self._done[0] != asked:
            self._done = (asked, chart(self._curve, width, height, self.zoomed, self.cross))
        return self._done[1]
