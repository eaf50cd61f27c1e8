"""The loss chart of a run: drawn anew only when the run, the size or the zoom has changed."""

from __future__ import annotations

import math
from typing import Any

from textual.content import Content

from mlxtune.runs.state import RunState
from mlxtune.tui.draw import Part, line
from mlxtune.tui.plot import Curve, chart, smoothed
from mlxtune.tui.widgets.draw import Draw


class LossChart(Draw):
    """Train loss raw and smoothed, validation loss, over the steps of the whole run or, zoomed, its last fifth."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(self._draw, **kwargs)
        self._state: RunState | None = None
        self._curve = Curve((), (), (), 0)
        self.zoomed = False

    def set(self, state: RunState, zoomed: bool) -> None:
        """Draw ``state``. The same object and zoom as before cost nothing."""
        if state is self._state and zoomed == self.zoomed:
            return
        self._state, self.zoomed, self._curve = state, zoomed, curve_of(state)
        self.refresh()

    def legend(self, width: int) -> Content:
        """What the signs mean, with the last values: in words where ``width`` has room for them, then in signs alone."""
        smooth, valid = self._curve.smooth, self._curve.validations
        now = (f"{smooth[-1][1]:.2f}" if smooth else "–", "bold $foreground")
        raw: list[Part] = [("⠒⠒", "$faint"), " train  "]
        words: list[Part] = [("⠒⠒", "bold $primary"), " smoothed ", now]
        signs: list[Part] = [("⠒⠒", "bold $primary"), " ", now]
        if valid:
            last = (f"{valid[-1][1]:.2f}" if math.isfinite(valid[-1][1]) else "NaN", "bold $foreground")
            words += ["  ", ("◆", "$second"), " validation ", last]
            signs += ["  ", ("◆", "$second"), " ", last]
        choices = [line(*raw, *words), line(*words), line(*signs)]
        return next((choice for choice in choices if choice.cell_length <= width), Content(""))

    def _draw(self, width: int, height: int) -> Content:
        return chart(self._curve, width, height, self.zoomed)


def curve_of(state: RunState) -> Curve:
    """The numbers of a chart."""
    raw = [(float(step.step), step.loss) for step in state.steps]
    validations = [(float(item.step), item.loss) for item in state.validations]
    return Curve(raw, smoothed(raw), validations, state.total)
