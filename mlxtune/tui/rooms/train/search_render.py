"""Draw the search page: the decision, the leaderboard, one trial's rates, and where each value lies in its range."""

from __future__ import annotations

from textual.content import Content

from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.run import STATUS_LABELS
from mlxtune.present.search import STATUS_GLYPHS, entry_note, sentence, value_text
from mlxtune.training.search.leaderboard import Entry, Leaderboard
from mlxtune.tui.render.bars import interval
from mlxtune.tui.render.charts import Curve, Series, draw_chart
from mlxtune.tui.render.text import Part, cell, fold, key, line, lines, marked
from mlxtune.workspace.index import RunView

_OUT = ("pruned", "not_started", "not_continued", "dropped")
_VALUE, _FIGURE, _BAR = 8, 7, 25  # cells


def empty_page(can_start: bool, width: int) -> Content:
    """Return the content of the page before the first search."""
    about = (
        "A search trains a recipe with different learning rates, ranks, and layers, compares the trials on validation rows, and evaluates "
        "the best adapter once on the held-out rows."
    )
    rows = [fold("No searches yet.", width, style="bold"), fold(about, width), Content("")]
    if can_start:
        rows.append(line("  ", key("n", "start a search", "screen.new")))
    else:
        rows.append(fold("A search can start when there is a recipe and nothing else is running.", width))
    return lines(*rows)


def banner(view: RunView, board: Leaderboard | None, now: float, width: int) -> Content:
    """Return the status of a search, its spent steps, and its decision so far."""
    label, state = STATUS_LABELS[view.status], view.state
    facts: list[Part] = [(f"  {label.glyph} ", f"bold ${label.style}"), (label.text, "bold")]
    if view.alive and board and board.outcome:
        facts.append((f"  evaluating trial {board.outcome.decision.selected} on the held-out rows", "$muted"))
    if view.alive and state.started:
        facts.append((f"  {duration(now - state.started)}", "$muted"))
    if board:
        facts.append(
            (f"  {plural(board.trained_steps, 'step')} of training, compared on {plural(board.rows, 'validation row')}", "$muted")
        )
    rows = [line(*facts).truncate(max(width, 0), ellipsis=True)]
    if view.status == "failed":
        rows += marked("✗", "$error", one_line(state.error), width, "bold")
        rows += [fold(one_line(state.hint), width, "    ")] if state.hint else []
    elif view.status in ("crashed", "stopped"):
        rows.append(line("    Every result is saved.   ", key("r", "continue", "screen.resume")))
    elif board and board.outcome and (rate := board.outcome.held_out):
        decision = board.outcome.decision
        rows += marked("✓", "$success", sentence(decision), width)
        validation: Part = (f"    validation {decision.rate:.1%}, optimistic; adjusted {decision.shrunken:.1%}; ", "$muted")
        held_out: Part = (f"held-out {rate.share:.1%}", "bold")
        rows.append(
            line(validation, held_out, (f" ({100 * rate.low:.0f} to {100 * rate.high:.0f}), evaluated once", "$muted")).truncate(
                max(width, 0), ellipsis=True
            )
        )
    elif board and board.decision:
        prefix = "" if board.outcome else "So far: "
        rows += marked(
            "◐" if not board.outcome else "✓",
            "$primary" if not board.outcome else "$success",
            prefix + sentence(board.decision),
            width,
        )
    return lines(*rows)


def header(board: Leaderboard, width: int) -> Content:
    """Return the headings of the leaderboard."""
    values = [cell(name, _VALUE, "$muted", right=True) for name in board.parameters]
    bar = [cell("  95% interval, 0 to 100", _bar_width(board, width) + 2, "$muted")] if _bar_width(board, width) else []
    titles = [cell("steps", 6, "$muted", right=True), cell("contract", _FIGURE + 2, "$muted", right=True), *bar]
    return line("    ", cell("trial", 5, "$muted", right=True), *values, *titles).truncate(max(width, 0))


def row(board: Leaderboard, entry: Entry, alive: bool, width: int) -> Content:
    """Return a trial: its glyph, number, values, rate with interval, and note. Nothing trains unless the search is ``alive``."""
    stopped = entry.status == "training" and not alive
    glyph = STATUS_GLYPHS["waiting" if stopped else entry.status]
    faded = "$muted" if entry.status in _OUT or not entry.rates else ""
    values = [cell(value_text(value), _VALUE, faded, right=True) for value in entry.values]
    parts: list[Part] = [glyph, " ", cell(str(entry.number), 5, faded or "bold", right=True), *values]
    parts.append(cell(f"{entry.steps:,}" if entry.steps else "", 6, "$muted", right=True))
    rate = entry.rate
    parts.append(cell(f"{rate:.1%}" if rate is not None else "", _FIGURE + 2, faded or "bold", right=True))
    bar_width = _bar_width(board, width)
    if bar_width:
        style = "$primary" if entry.status in ("selected", "training") else "$muted"
        parts += ["  ", interval(entry.low, rate, entry.high, bar_width, style) if rate is not None else " " * bar_width]
    note = "next" if stopped else entry_note(board, entry)
    if line(*parts, "  ", note).cell_length > width and not stopped:
        note = entry_note(board, entry, brief=True)
    parts += ["  ", (note, "$error" if entry.status == "failed" else "$muted")]
    return line(*parts).truncate(max(width, 0), ellipsis=True)


def _bar_width(board: Leaderboard, width: int) -> int:
    used = 2 + 5 + _VALUE * len(board.parameters) + 6 + _FIGURE + 2 + 2
    return _BAR if width - used - _BAR >= 30 else 0


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
        trend = known.get(label)
        ends = board.ends[index]
        parts: list[Part] = [
            "  ",
            cell(label, 10, "$muted"),
            cell(value_text(ends[0]), 8, "$muted", right=True),
            " ",
            *strip,
            " ",
            cell(value_text(ends[1]), 8, "$muted"),
        ]
        if trend:
            low, change, high = (round(100 * value) for value in (trend.low, trend.change, trend.high))
            parts += [(f"{change:+d} points".replace("-", "−"), "bold"), (f" ({low:+d} to {high:+d})".replace("-", "−"), "$muted")]
        rows.append(line(*parts).truncate(max(width, 0)))
    return lines(*rows)
