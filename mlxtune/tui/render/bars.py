"""Bars: shares, sparklines and intervals."""

from collections.abc import Sequence

from textual.content import Content

from mlxtune.tui.render.text import gigabytes, line


def bar(share: float, width: int, style: str = "$primary") -> Content:
    """Return a bar with half-cell resolution. The filled part is heavy and the rest is light, for terminals without color."""
    halves = round(max(0.0, min(1.0, share)) * max(width, 0) * 2)
    full, half = divmod(halves, 2)
    return line(("━" * full + "╸" * half, style), ("─" * (width - full - half), "$line"))


def spark(values: Sequence[float]) -> str:
    """Return a sparkline of the means of six parts of ``values``. Its axis starts at zero, so that a steady pace looks steady."""
    size = max(len(values) // 6, 1)
    means = [sum(values[start : start + size]) / size for start in range(0, len(values) - size + 1, size)][-6:]
    high = max(means, default=0.0)
    return "".join("▁▂▃▄▅"[round(max(mean, 0) / high * 4)] for mean in means) if high > 0 else ""


def memory(used: float, limit: float, width: int, *, wide: bool) -> Content:
    """Return memory in use as a bar, unless ``width`` is 0, and in gigabytes, beside the limit: a warning at 75% and above, an error at 92% and above."""
    share = used / limit
    style, glyph = ("$error", "✗ ") if share >= 0.92 else ("$warning", "! ") if share >= 0.75 else ("$primary", "")
    gauge = line(bar(used / limit, width, style), " ") if width else ""
    return line(
        gauge, (glyph, f"bold {style}"), (gigabytes(used), "bold"), (f"{' of ' if wide else '/'}{limit / 2**30:.0f} GB", "$muted")
    )


def interval(low: float, middle: float, high: float, width: int, style: str) -> Content:
    """Return an estimate with its interval on an axis from 0 to 1, with quarter marks; empty below 12 cells."""
    if width < 12:
        return Content("")
    cells = [(" ", "")] * width
    for quarter in range(5):
        cells[_column(quarter / 4, width)] = ("┊", "$line")
    first, last = _column(low, width), _column(high, width)
    for column in range(first, last + 1):
        cells[column] = ("╺" if column == first else "╸" if column == last else "━", style)
    cells[_column(middle, width)] = ("●", style)
    return line(*cells)


def axis(width: int) -> Content:
    """Return the labels under the marks of :func:`interval`, in percent."""
    cells = list(" " * max(width, 0))
    for share, label in ((0.0, "0"), (0.5, "50"), (1.0, "100")) if width >= 12 else ():
        column = min(_column(share, width), width - len(label))
        cells[column : column + len(label)] = label
    return line(("".join(cells), "$faint"))


def _column(share: float, width: int) -> int:
    return round(max(0.0, min(1.0, share)) * (width - 1))
