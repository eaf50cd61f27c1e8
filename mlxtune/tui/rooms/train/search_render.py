"""Draw the search page: its status, one trial's rates, and where each value lies in its range."""

from __future__ import annotations

from textual.content import Content

from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.run import STATUS_LABELS
from mlxtune.present.search import decision_blocks, trend_text, value_text
from mlxtune.training.search.leaderboard import Leaderboard
from mlxtune.tui import draw
from mlxtune.tui.render.charts import Curve, Series, draw_chart
from mlxtune.tui.render.text import Part, cell, fold, key, line, lines, marked
from mlxtune.workspace.index import RunView


def empty_page(can_start: bool, width: int) -> Content:
    """Return the content of the page before the first search."""
    about = "Trials of one recipe with other learning rates, ranks, and layers, compared on validation rows."
    action = (
        line("  ", key("n", "start a search", "screen.new")) if can_start else fold("Needs a recipe, and a free machine.", width)
    )
    return lines(fold("No searches yet.", width, style="bold"), fold(about, width), Content(""), action)


def banner(view: RunView, board: Leaderboard | None, now: float, width: int) -> Content:
    """Return the status of a search, its spent steps, and its decision so far."""
    label, state = STATUS_LABELS[view.status], view.state
    parts: list[Part] = [(f"  {label.glyph} ", f"bold ${label.style}"), (label.text, "bold")]
    if view.alive and board and board.outcome:
        parts.append((f"  evaluating trial {board.outcome.decision.selected}", "$muted"))
    if view.alive and state.started:
        parts.append((f"  {duration(now - state.started)}", "$muted"))
    if board:
        steps, compared = plural(board.trained_steps, "step"), plural(board.rows, "validation row")
        parts.append((f"  {steps} trained, compared on {compared}", "$muted"))
    rows = [line(*parts).truncate(max(width, 0), ellipsis=True)]
    if view.status == "failed":
        rows += marked("✗", "$error", one_line(state.error), width, "bold")
        rows += [fold(one_line(state.hint), width, "    ")] if state.hint else []
    elif view.status in ("crashed", "stopped"):
        rows.append(line("    every result saved   ", key("r", "continue", "screen.resume")))
    elif board:
        rows += draw.rows(decision_blocks(board), width)
    return lines(*rows)


def rates(board: Leaderboard, number: int, width: int, height: int) -> Content:
    """Return the contract rates after each rung, with the trial ``number`` in front of the others."""
    points = {
        entry.number: [(float(steps), 100 * rate) for steps, rate in zip(entry.rungs, entry.rates, strict=False)]
        for entry in board.entries
    }
    beside = tuple(Series(points[other], "$muted") for other in points if other != number and points[other])
    own = points.get(number, [])
    return draw_chart(
        Curve([], own, own, max(entry.rungs[-1] for entry in board.entries), beside, (0.0, 100.0)), width, height, False, None
    )


def positions(board: Leaderboard, selected: int, width: int) -> Content:
    """Return a row per hyperparameter: its range with the trials by number, and the trend of the pass rate over the range."""
    rows = []
    known = {trend.label: trend for trend in board.trends}
    best = {entry.number: index for index, entry in enumerate(board.entries)}
    for index, label in enumerate(board.parameters):
        places = board.places[index]
        strip = [(" ", "")] * max(12, min(36, width - 58))
        for column in (0, len(strip) - 1):
            strip[column] = ("┊", "$line")
        for number in sorted(places, key=lambda number: (number == selected, -best.get(number, 99))):
            column = round(places[number] * (len(strip) - 1))
            strip[column] = (
                str(number % 10),
                "bold $primary" if number == selected else "" if best.get(number, 99) < 3 else "$faint",
            )
        low, high = (value_text(value) for value in board.ends[index])
        parts: list[Part] = [
            "  ",
            cell(label, 10, "$muted"),
            cell(low, 8, "$muted", right=True),
            " ",
            *strip,
            " ",
            cell(high, 8, "$muted"),
        ]
        if trend := known.get(label):
            parts.append((trend_text(trend), "bold"))
        rows.append(line(*parts).truncate(max(width, 0)))
    return lines(*rows)
