"""Line charts with braille dots for the series, glyphs for validations, and light axes.

The functions return :class:`Content`, so that colors stay theme tokens and a chart can have any size. Plotting widgets
for Textual connect the points around a NaN, resolve colors once, and capture the arrow keys.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from textual.content import Content

from mlxtune.tui.render.text import lines

_MARGIN = 7  # cells left of the axis: the gutter and a label
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille dots, by row and column within a cell

Points = Sequence[tuple[float, float]]
Cell = tuple[str, str]  # a character and its style


@dataclass(frozen=True)
class Series:
    """A line and its style."""

    points: Points
    style: str


@dataclass(frozen=True)
class Curve:
    """The data of a chart, as ``(step, value)`` points. A NaN in ``raw`` is marked on the axis and breaks the line.

    ``beside`` has other lines, drawn behind the smoothed one. ``limits`` fixes the y axis.
    """

    raw: Points
    smooth: Points
    validations: Points
    total: int
    beside: tuple[Series, ...] = ()
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Scale:
    """The limits of both axes and their ticks."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    decimals: int


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return a centered moving average over n/25 points (at least 2) on each side; it is one-sided at the right edge.

    A trailing average would lag behind a steep start and appear to lie above its own data. Non-finite values are omitted.
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    n, half = len(finite), max(2, len(finite) // 25)
    sums = [0.0, *accumulate(y for _, y in finite)]
    spans = ((max(0, index - half), min(n, index + half + 1)) for index in range(n))
    return [(x, (sums[end] - sums[start]) / (end - start)) for (x, _), (start, end) in zip(finite, spans, strict=True)]


def scale(curve: Curve, zoom: bool, width: int, height: int) -> Scale:
    """Return the scale of a chart of ``width`` by ``height`` cells. If ``zoom``, x spans the last fifth of the steps.

    y spans the 1st to the 99th percentile of the lines and every validation, rounded outward to a fifth of a tick.
    """
    last = max((points[-1][0] for points in (curve.raw, curve.smooth, curve.validations) if points), default=0.0)
    first, end = 0.0, float(max(curve.total, last, 1))
    if zoom and last:
        first, end = max(last - max(last / 5, 4), 0.0), last
    series = (curve.raw, curve.smooth, *(item.points for item in curve.beside))
    values = sorted(y for points in series for x, y in points if first <= x <= end and math.isfinite(y))
    extremes = [y for x, y in curve.validations if first <= x <= end and math.isfinite(y)]
    if values:
        extremes += [values[len(values) // 100], values[-1 - len(values) // 100]]
    low, high = curve.limits or ((min(extremes), max(extremes)) if extremes else (0.0, 1.0))
    least = max(abs(high) * 0.02, 0.005)
    if high - low < least:  # keep a flat line flat
        low, high = low - least, high + least
    step, decimals = tick_step(high - low, 5 if height >= 12 else 4 if height >= 8 else 2)
    low, high = (math.floor(low / step * 5 + 1e-9) / 5 * step, math.ceil(high / step * 5 - 1e-9) / 5 * step)
    x_step, _ = tick_step(end - first, 5 if width >= 60 else 3 if width >= 30 else 1)
    y_ticks = tuple(_ticks(low, high, step)) if extremes or curve.limits else ()
    return Scale((first, end), (low, high), tuple(_ticks(first, end, max(1.0, x_step))), y_ticks, decimals)


def tick_step(span: float, count: int) -> tuple[float, int]:
    """Return the spacing of at most ``count`` ticks (1, 2, 2.5 or 5 times a power of ten) and the decimals in their labels."""
    power = 10.0 ** math.floor(math.log10(span / count))
    size = next(size for size in (1, 2, 2.5, 5, 10) if span / (size * power) <= count or size == 10)
    decimals = max(0, -math.floor(math.log10(size * power) + 1e-9))
    return size * power, decimals + (1 if size == 2.5 and power < 10 else 0)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def draw_chart(curve: Curve, width: int, height: int, zoom: bool = False, cursor: float | None = None) -> Content:
    """Draw a chart on ``width`` by ``height`` cells, or nothing if there is too little space. ``cursor`` is a step to mark."""
    columns, rows = plot_size(width, height)
    if columns < 8 or rows < 2:
        return Content("")
    limits = scale(curve, zoom, columns, rows)
    grid = _Grid(columns, rows, limits)
    grid.draw(curve.raw, "$faint")
    for series in curve.beside:
        grid.draw(series.points, series.style)
    grid.draw(curve.smooth, "bold $primary", thick=True)
    grid.draw_ticks()
    grid.draw_validations(curve.validations)
    if cursor is not None and limits.x[0] <= cursor <= limits.x[1]:
        grid.draw_cursor(cursor)
    labels = dict(zip(map(grid.row, limits.y_ticks), _labels(limits.y_ticks, limits.decimals), strict=True))
    body = [
        _join([(f"{labels.get(row, ''):>{_MARGIN - 1}} ", "$muted"), ("├" if row in labels else "│", "$line"), *cells])
        for row, cells in enumerate(grid.cells)
    ]
    nan_columns = {grid.column(x) for x, y in curve.raw if not math.isfinite(y) and limits.x[0] <= x <= limits.x[1]}
    floor = [("✗", "bold $error") if column in nan_columns else ("─", "$line") for column in range(columns)]
    return lines(*body, _join([(" " * _MARGIN, ""), ("└", "$line"), *floor]), _x_labels(grid))


def plot_size(width: int, height: int) -> tuple[int, int]:
    """Return the columns and rows inside the axes of a chart of ``width`` by ``height`` cells."""
    return width - _MARGIN - 1, height - 2


class _Grid:
    """The cells inside the axes. A braille cell belongs to one series; a later one replaces it."""

    def __init__(self, columns: int, rows: int, scale: Scale) -> None:
        self.columns, self.rows, self.scale = columns, rows, scale
        self.cells: list[list[Cell]] = [[(" ", "")] * columns for _ in range(rows)]

    def column(self, x: float) -> int:
        left, right = self.scale.x
        dots = self.columns * 2 - 1
        return round(min(max((x - left) / (right - left) * dots, 0), dots)) // 2

    def row(self, y: float) -> int:
        low, high = self.scale.y
        dots = self.rows * 4 - 1
        return round(min(max((high - y) / (high - low) * dots, 0), dots)) // 4

    def draw(self, points: Points, style: str, thick: bool = False) -> None:
        """Draw a line. Each half cell spans its lowest to its highest value and is joined to the one before."""
        dots: set[tuple[int, int]] = set()
        before: tuple[int, int] | None = None
        for column, first, top, bottom, last in self._reduce(points):
            if column is None:
                before = None
                continue
            if before is not None:
                dots.update(_between(before, (column, first)))
            dots.update((column, down) for down in range(top, bottom + 1))
            before = (column, last)
        if thick:
            dots |= {(across, min(down + 1, self.rows * 4 - 1)) for across, down in dots}
        cells: dict[tuple[int, int], int] = {}
        for across, down in dots:
            place = (across // 2, down // 4)
            cells[place] = cells.get(place, 0) | _BITS[down % 4][across % 2]
        for (column, row), bits in cells.items():
            self.cells[row][column] = (chr(0x2800 + bits), style)

    def _reduce(self, points: Points) -> Iterator[tuple[int | None, int, int, int, int]]:
        """For each half cell, yield its column and first, topmost, lowest and last dot. A column of ``None`` breaks the line."""
        (left, right), (low, high) = self.scale.x, self.scale.y
        wide, tall, far, deep = right - left, high - low, self.columns * 2 - 1, self.rows * 4 - 1
        now: tuple[int, int, int, int, int] | None = None
        for x, y in points:  # this runs for every step, so it calls no function
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

    def draw_ticks(self) -> None:
        for row in {self.row(tick) for tick in self.scale.y_ticks}:
            for column in range(2, self.columns, 3):
                if self.cells[row][column][0] == " ":
                    self.cells[row][column] = ("·", "$line")

    def draw_cursor(self, x: float) -> None:
        column = self.column(x)
        for row in self.cells:
            if row[column][0] in " ·":
                row[column] = ("┊", "$foreground")

    def draw_validations(self, points: Points) -> None:
        limit, (left, right) = self.columns, self.scale.x
        for x, y in reversed(points):
            if math.isfinite(y) and left <= x <= right and (column := self.column(x)) <= limit:
                self.cells[self.row(y)][column] = ("◆", "$second")
                limit = column - 3


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    (left, top), (right, bottom) = start, end
    n = max(right - left, abs(bottom - top), 1)
    return ((left + round((right - left) * index / n), top + round((bottom - top) * index / n)) for index in range(1, n))


def _labels(ticks: Sequence[float], decimals: int) -> list[str]:
    """Return the labels of an axis, all in the first notation that fits: ``0.0025``, ``-.0025``, or ``-2e-5``."""
    plain = [f"{tick:.{decimals}f}" for tick in ticks]
    for texts in (plain, [text.replace("0.", ".", 1) for text in plain]):
        if all(len(text) < _MARGIN for text in texts):
            return texts
    return [f"{tick:.0e}".replace("e-0", "e-").replace("e+0", "e") for tick in ticks]


def _join(cells: Iterable[Cell]) -> Content:
    return Content.assemble(*(("".join(text for text, _ in run), style) for style, run in groupby(cells, lambda cell: cell[1])))


def _x_labels(grid: _Grid) -> Content:
    """Return the labels below the x axis: always the first and last step, and the others where there is room."""
    limits = grid.scale
    width = _MARGIN + 1 + grid.columns
    text = [" "] * width
    for index, step in enumerate((*limits.x, *limits.x_ticks)):
        label = f"{step:,.0f}"
        left = min(_MARGIN + 1 + grid.column(step) - (0 if index == 0 else len(label) // 2), width - len(label))
        left -= index == 0
        if all(character == " " for character in text[max(left - 2, 0) : left + len(label) + 2]):
            text[left : left + len(label)] = label
    return Content.assemble(("".join(text), "$muted"))
