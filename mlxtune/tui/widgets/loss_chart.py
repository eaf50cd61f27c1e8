"""The loss chart of a run: drawn anew only when the run, the size or the zoom has changed."""

from __future__ import annotations

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

    def legend(self, width: int) -> Part:
        """What the signs mean, with the last values; words only where there is room for them."""
        words = width >= 60
        smooth, valid = self._curve.smooth, self._curve.validations
        parts: list[Part] = [("⠒⠒", "$faint"), " train  " if words else " ", ("⠒⠒", "bold $primary"), " smoothed " if words else " "]
        parts.append((f"{smooth[-1][1]:.2f}" if smooth else "–", "bold $foreground"))
        if valid:
            last = valid[-1][1]
            parts += ["  ", ("◆", "$second"), " validation " if words else " "]
            parts.append((f"{last:.2f}" if last == last else "NaN", "bold $foreground"))
        return line(*parts)

    def _draw(self, width: int, height: int) -> Content:
        return chart(self._curve, width, height, self.zoomed)


def curve_of(state: RunState) -> Curve:
    """The numbers of a chart."""
    raw = [(float(step.step), step.loss) for step in state.steps]
    validations = [(float(item.step), item.loss) for item in state.validations]
    return Curve(raw, smoothed(raw), validations, state.total)
