"""What stands around a row under review: how far the review is, the contract, findings, tags, where the row comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.text import duration, one_line
from mlxtune.tui.draw import bar, clickable, col, fold, key, line, lines
from mlxtune.tui.review_view import Verdict
from mlxtune.tui.row_view import sign_of
from mlxtune.tui.widgets.data_pictures import INK

if TYPE_CHECKING:
    from mlxtune.data.checks.finding import Finding


def progress(decided: int, total: int, pace: float | None, aside: str, width: int) -> Content:
    """How many of all rows are decided, as a bar, and how long the rest will take at this pace."""
    left = line((f"  {decided:,}", "bold"), (f" of {total:,} decided  ", "$muted"))
    rest = total - decided
    said = "all decided" if not rest else f"{rest:,} left" + (f", about {duration(rest * pace)}" if pace and rest > 1 else "")
    right = line((f"  {aside}   " if aside else "  ", "$muted"), (said, "$muted" if rest else "$success"))
    room = width - left.cell_length - right.cell_length
    if room < 8:
        right, room = line(("  " + said, "$muted")), width - left.cell_length - len(said) - 2
    return line(left, bar(decided / total if total else 0.0, room), right).truncate(max(width, 0))


def contract(verdicts: Sequence[Verdict], why: str, width: int, way: Content | None = None) -> Content:
    """Every question of the contract with its verdict; ``why`` there is none. ``way`` is the key that adds a disclaimer."""
    if not verdicts:
        return fold(why, width)
    rows: list[Content] = []
    for one in verdicts:
        mark = ("✓", "bold $success") if one.holds else ("✗", "bold $error")
        rows.append(line("  ", mark, "  ", col(one.label, width - 5, "" if one.holds else "bold").rstrip()))
        if not one.holds:
            rows += [fold(one.why, width, "     ")]
            if way and one.metric.startswith("disclaimer"):
                rows.append(line("     ", way))
    return lines(*rows)


def contract_line(verdicts: Sequence[Verdict], width: int, way: Content | None = None) -> Content:
    """The contract in one line, where there is no room beside the row."""
    if not verdicts:
        return line("  ", key("c", "contract, tags and source", "screen.aside", "$muted"))
    broken = [one for one in verdicts if not one.holds]
    held = f"{len(verdicts) - len(broken)} of {len(verdicts)} hold"
    more = line("   ", way or "", "   " if way else "", key("c", "contract", "screen.aside", "$muted"))
    if not broken:
        return line(("  ✓ ", "bold $success"), "the contract holds", (f"  {held}", "$muted"), more)
    said = f"{broken[0].label}: {broken[0].why}"
    room = width - 4 - len(held) - 2 - more.cell_length
    return line(("  ✗ ", "bold $error"), col(said, min(room, len(said)), "bold"), (f"  {held}", "$muted"), more).truncate(
        max(width, 0)
    )


def findings(found: Sequence[Finding], width: int) -> Content:
    """What checks find about the row, each in a sentence."""
    rows = []
    for one in found:
        said = fold(one.why, width - 3, "     ", "")
        rows.append(line("  ", (sign_of(one.check), f"bold {INK[one.severity]}"), "  ", said[5:]))
    return lines(*rows)


def tags(known: Sequence[str], own: Sequence[str], width: int) -> Content:
    """The tags that a digit puts on or takes off, in two columns; those that the row has have the bar before them."""
    cells = []
    for at, tag in enumerate(known):
        has = tag in own
        digit = str(at + 1) if at < 9 else " "
        cell = line(
            ("▌" if has else " ", "$primary"),
            " ",
            (digit, "bold $primary"),
            " ",
            col(one_line(tag, 30), (width - 2) // 2 - 5, "bold" if has else "$muted"),
        )
        cells.append(clickable(cell, f"screen.digit({at + 1})") if at < 9 else cell)
    if not cells:
        return line("  ", key("t", "tag it with a word of your own", "screen.tag", "$muted"))
    return lines(*(line(*cells[at : at + 2]).truncate(max(width, 0)) for at in range(0, len(cells), 2)))


def facts(pairs: Sequence[tuple[str, str]], width: int) -> Content:
    """Names and what they are, a row each or as many as one needs."""
    rows: list[Content] = []
    for name, what in pairs:
        first, *rest = str(fold(what, width - 9, "", "").plain).split("\n")
        rows.append(line("  ", col(name, 9, "$muted"), first))
        rows += [line(" " * 11, more) for more in rest]
    return lines(*rows)
