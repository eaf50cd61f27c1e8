"""The loss chart as text: braille dots for the two train series, marks for validations, light axes.

Pure functions from numbers to :class:`Content`, so that colours stay theme tokens and any size can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from textual.content import Content

from mlxtune.tui.draw import lines

MARGIN = 7  # cells left of the axis: the gutter and a label
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille dots, by row and column within a cell

Points = Sequence[tuple[float, float]]
Cell = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """A line beside the chart's own, and its style."""

    points: Points
    style: str


@dataclass(frozen=True)
class Curve:
    """What is drawn, as ``(step, value)``: ``raw`` may hold NaN, which is marked on the axis and never joined.

    ``beside`` are other lines, drawn under the smoothed one. ``whole`` are the limits of y where the values have some.
    """

    raw: Points
    smooth: Points
    validations: Points
    total: int
    beside: tuple[Series, ...] = ()
    whole: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scale:
    """The window of steps and losses that is shown, and the ticks on both axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    decimals: int


def smoothed(points: Points) -> list[tuple[float, float]]:
    """A centred mean over a window of n/25 points to each side, at least 2; one-sided at the right edge.

    A moving average would lag a steep start and seem to lie above its own data. Points that are not finite do not count.
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    half = max(2, len(finite) // 25)
    sums = [0.0, *accumulate(y for _, y in finite)]
    spans = ((max(0, at - half), min(len(finite), at + half + 1)) for at in range(len(finite)))
    return [(finite[at][0], (sums[end] - sums[start]) / (end - start)) for at, (start, end) in enumerate(spans)]


def scale(curve: Curve, zoom: bool, width: int, height: int) -> Scale:
    """The limits for a chart of ``width`` by ``height`` cells. Zoomed, x spans the last fifth of what has been trained.

    y spans the 1st to the 99th percentile of the train series and every validation, rounded out to a fifth of a tick.
    """
    last = max((points[-1][0] for points in (curve.raw, curve.smooth, curve.validations) if points), default=0.0)
    first, end = 0.0, float(max(curve.total, last, 1))
    if zoom and last:
        first, end = max(last - max(last / 5, 4), 0.0), last
    lines = (curve.raw, curve.smooth, *(series.points for series in curve.beside))
    seen = sorted(y for series in lines for x, y in series if first <= x <= end and math.isfinite(y))
    ends = [y for x, y in curve.validations if first <= x <= end and math.isfinite(y)]
    if seen:
        ends += [seen[len(seen) // 100], seen[-1 - len(seen) // 100]]
    low, high = curve.whole or ((min(ends), max(ends)) if ends else (0.0, 1.0))
    flat = max(abs(high) * 0.02, 0.005)
    if high - low < flat:  # a flat line is no cliff
        low, high = low - flat, high + flat
    step, decimals = tick_step(high - low, 5 if height >= 12 else 4 if height >= 8 else 2)
    low, high = (math.floor(low / step * 5 + 1e-9) / 5 * step, math.ceil(high / step * 5 - 1e-9) / 5 * step)
    x_step, _ = tick_step(end - first, 5 if width >= 60 else 3 if width >= 30 else 1)
    return Scale((first, end), (low, high), tuple(_ticks(first, end, max(1.0, x_step))), tuple(_ticks(low, high, step)), decimals)


def tick_step(span: float, count: int) -> tuple[float, int]:
    """The distance of ticks, 1, 2, 2.5 or 5 times a power of ten, that ``span`` holds at most ``count`` times; its decimals."""
    power = 10.0 ** math.floor(math.log10(span / count))
    size = next(size for size in (1, 2, 2.5, 5, 10) if span / (size * power) <= count or size == 10)
    decimals = max(0, -math.floor(math.log10(size * power) + 1e-9))
    return size * power, decimals + (1 if size == 2.5 and power < 10 else 0)


def _ticks(low: float, high: float, step: float) -> list[float]:
    start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(start, end + 1)]


def chart(curve: Curve, width: int, height: int, zoom: bool = False, cross: float | None = None) -> Content:
    """The whole chart on ``width`` by ``height`` cells, or nothing where that is too small to be honest; ``cross`` is a step to mark."""
    columns, rows = plane(width, height)
    if columns < 8 or rows < 2:
        return Content("")
    shown = scale(curve, zoom, columns, rows)
    grid = _Grid(columns, rows, shown)
    grid.draw(curve.raw, "$faint")
    for series in curve.beside:
        grid.draw(series.points, series.style)
    grid.draw(curve.smooth, "bold $primary", thick=True)
    grid.ticks()
    grid.marks(curve.validations, "◆", "$second", apart=3)
    if cross is not None and shown.x[0] <= cross <= shown.x[1]:
        grid.upright(cross)
    labels = {grid.row(tick): _label(tick, shown.decimals) for tick in shown.y_ticks}
    body = [
        _row([(f"{labels.get(at, ''):>{MARGIN - 1}} ", "$muted"), ("├" if at in labels else "│", "$line"), *cells])
        for at, cells in enumerate(grid.cells)
    ]
    lost = {grid.column(x) for x, y in curve.raw if not math.isfinite(y) and shown.x[0] <= x <= shown.x[1]}
    floor = [("✗", "bold $error") if at in lost else ("─", "$line") for at in range(columns)]
    return lines(*body, _row([(" " * MARGIN, ""), ("└", "$line"), *floor]), _steps(grid, shown))


def plane(width: int, height: int) -> tuple[int, int]:
    """The columns and rows that a chart of ``width`` by ``height`` cells has for its lines."""
    return width - MARGIN - 1, height - 2


class _Grid:
    """The cells right of the y axis. A braille cell belongs to one series: a later one takes it over."""

    def __init__(self, columns: int, rows: int, shown: Scale) -> None:
        self.columns, self.rows, self.shown = columns, rows, shown
        self.cells: list[list[Cell]] = [[(" ", "")] * columns for _ in range(rows)]

    def dot(self, x: float, y: float) -> tuple[int, int]:
        """The braille dot of a point, held inside the chart."""
        (left, right), (low, high) = self.shown.x, self.shown.y
        across = (x - left) / (right - left) * (self.columns * 2 - 1)
        down = (high - y) / (high - low) * (self.rows * 4 - 1)
        return round(min(max(across, 0), self.columns * 2 - 1)), round(min(max(down, 0), self.rows * 4 - 1))

    def column(self, x: float) -> int:
        return self.dot(x, self.shown.y[0])[0] // 2

    def row(self, y: float) -> int:
        return self.dot(self.shown.x[0], y)[1] // 4

    def draw(self, points: Points, style: str, thick: bool = False) -> None:
        """A series of dots: each half cell from its lowest to its highest value, joined to the one before."""
        dots: set[tuple[int, int]] = set()
        before: tuple[int, int] | None = None
        for column, first, top, bottom, last in self._reduced(points):
            if column is None:
                before = None
                continue
            if before is not None:
                dots.update(_joined(before, (column, first)))
            dots.update((column, down) for down in range(top, bottom + 1))
            before = (column, last)
        if thick:
            dots |= {(across, min(down + 1, self.rows * 4 - 1)) for across, down in dots}
        cells: dict[tuple[int, int], int] = {}
        for across, down in dots:
            cell = (across // 2, down // 4)
            cells[cell] = cells.get(cell, 0) | _BITS[down % 4][across % 2]
        for (at, row), bits in cells.items():
            self.cells[row][at] = (chr(0x2800 + bits), style)

    def _reduced(self, points: Points) -> Iterable[tuple[int | None, int, int, int, int]]:
        """Per half cell: its column and the first, topmost, lowest and last dot; a column of ``None`` breaks the line."""
        (left, right), (low, high) = self.shown.x, self.shown.y
        wide, tall, far, deep = right - left, high - low, self.columns * 2 - 1, self.rows * 4 - 1
        now: tuple[int, int, int, int, int] | None = None
        for x, y in points:  # each step of a run is one: as :meth:`dot` does it, without a call
            if not left <= x <= right:
                continue
            if not math.isfinite(y):
                if now:
                    yield now
                now = None
                yield None, 0, 0, 0, 0
                continue
            column, down = round((x - left) / wide * far), round(min(max((high - y) / tall * deep, 0), deep))
            if now and now[0] == column:
                now = (column, now[1], min(now[2], down), max(now[3], down), down)
            else:
                if now:
                    yield now
                now = (column, down, down, down, down)
        if now:
            yield now

    def ticks(self) -> None:
        """A dot in every third empty cell of a row that has a tick."""
        for row in {self.row(tick) for tick in self.shown.y_ticks}:
            for at in range(2, self.columns, 3):
                if self.cells[row][at][0] == " ":
                    self.cells[row][at] = ("·", "$line")

    def upright(self, x: float) -> None:
        """A dotted line through the empty cells of a column."""
        column = self.column(x)
        for row in self.cells:
            if row[column][0] in " ·":
                row[column] = ("┊", "$foreground")

    def marks(self, points: Points, mark: str, style: str, apart: int) -> None:
        """A mark per point, newest first, and none nearer than ``apart`` cells to the one after it."""
        limit = self.columns
        for x, y in reversed([(x, y) for x, y in points if math.isfinite(y) and self.shown.x[0] <= x <= self.shown.x[1]]):
            column = self.column(x)
            if column <= limit:
                self.cells[self.row(y)][column] = (mark, style)
                limit = column - apart


def _joined(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots between two dots."""
    (left, top), (right, bottom) = start, end
    long = max(right - left, abs(bottom - top), 1)
    return ((left + round((right - left) * at / long), top + round((bottom - top) * at / long)) for at in range(1, long))


def _label(tick: float, decimals: int) -> str:
    text = f"{tick:.{decimals}f}"
    return text if len(text) < MARGIN else f"{tick:.0e}"


def _row(cells: Iterable[Cell]) -> Content:
    """Cells as content, neighbours of one style in one piece."""
    pieces: list[Cell] = []
    for text, style in cells:
        if pieces and pieces[-1][1] == style:
            pieces[-1] = (pieces[-1][0] + text, style)
        else:
            pieces.append((text, style))
    return Content.assemble(*pieces)


def _steps(grid: _Grid, shown: Scale) -> Content:
    """The labels under the x axis: the first and the last step always, the others where there is room."""
    width = MARGIN + 1 + grid.columns
    text = [" "] * width
    wanted = [shown.x[0], shown.x[1], *shown.x_ticks]
    for at, step in enumerate(wanted):
        label = f"{step:,.0f}"
        left = min(MARGIN + 1 + grid.column(step) - (0 if at == 0 else len(label) // 2), width - len(label))
        left -= at == 0
        if all(cell == " " for cell in text[max(left - 2, 0) : left + len(label) + 2]):
            text[left : left + len(label)] = label
    return Content.assemble(("".join(text), "$muted"))
