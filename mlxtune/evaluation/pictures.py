"""The pictures of a report's page, as inline SVG without any text in it: they stretch, and what they show stands beside them."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluation.html import Html, el, join

_WIDE, _HIGH = 1000, 20  # of a picture's own coordinates


def rate(low: float, value: float, high: float, kind: str) -> Html:
    """A bar up to ``value`` with the interval over it, all shares from 0 to 1, on an axis with marks at the quarters."""
    at = [_WIDE * share for share in (low, value, high)]
    marks = [_line(_WIDE * quarter / 4, 0, _WIDE * quarter / 4, _HIGH, "mark") for quarter in range(5)]
    track = el("rect", x=0, y=6, width=_WIDE, height=8, class_="track")
    bar = el("rect", x=0, y=6, width=_number(at[1]), height=8, class_=f"bar {kind}")
    whisker = [_line(at[0], 10, at[2], 10, "whisker"), *(_line(end, 4, end, 16, "whisker") for end in (at[0], at[2]))]
    return _svg("rate", track, *marks, bar, *whisker)


def shift(low: float, value: float, high: float, reach: float, kind: str) -> Html:
    """An interval around ``value`` on an axis from ``-reach`` to ``reach``, with a mark at zero."""
    at = [_WIDE / 2 * (1 + max(-1.0, min(1.0, item / reach))) for item in (low, value, high)]
    axis = _line(0, 10, _WIDE, 10, "mark")
    zero = _line(_WIDE / 2, 0, _WIDE / 2, _HIGH, "zero")
    interval = el("rect", x=_number(at[0]), y=7, width=_number(max(2.0, at[2] - at[0])), height=6, class_=f"bar {kind}")
    return _svg("shift", axis, interval, zero, _line(at[1], 2, at[1], 18, "whisker"))


def parts(counts: Sequence[tuple[int, str]]) -> Html:
    """One bar cut into pieces as wide as their ``(count, kind)``."""
    total = sum(count for count, _ in counts) or 1
    pieces, start = [], 0
    for count, kind in counts:
        if count:
            x, width = _WIDE * start / total, _WIDE * count / total
            pieces.append(el("rect", x=_number(x), y=0, width=_number(width), height=_HIGH, class_=f"piece {kind}"))
        start += count
    return _svg("parts", *pieces)


def count(value: int, most: int, kind: str) -> Html:
    """A bar of ``value``, where ``most`` fills the width."""
    return _svg("count", el("rect", x=0, y=4, width=_number(_WIDE * value / (most or 1)), height=12, class_=f"bar {kind}"))


def _svg(kind: str, *shapes: Html) -> Html:
    return el(
        "svg", join(*shapes), viewBox=f"0 0 {_WIDE} {_HIGH}", preserveAspectRatio="none", class_=f"picture {kind}",
        aria_hidden="true", focusable="false",
    )  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return el(
        "line", x1=_number(x1), y1=_number(y1), x2=_number(x2), y2=_number(y2), class_=kind, vector_effect="non-scaling-stroke"
    )


def _number(value: float) -> str:
    return f"{value:.1f}"
