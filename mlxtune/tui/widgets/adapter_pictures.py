"""What the Adapters room shows: a row of the library, all that is known of one, and two beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.text import one_line, plural
from mlxtune.tui.draw import Part, age, bar, col, fold, key, line, lines, wrap
from mlxtune.tui.names import base_name
from mlxtune.tui.shelf import Shelf, Shown
from mlxtune.tui.verdict import sign

if TYPE_CHECKING:
    from mlxtune.adapters.compare import Compared

Rows = list[tuple[Part, ...]]

_KIND, _SIZE, _WORD, _RATE, _AGE = 9, 9, 15, 12, 7


def invite(found: Shelf | None, recipes: bool, width: int) -> Content:
    """The room before there is anything."""
    if found is None:
        return Content("")
    rows = [
        fold("No adapters yet.", width, style="bold"),
        fold("Every run that finishes leaves one: a few megabytes over a base that stays as it is. Here they get names, are compared, fused and taken away.", width),
        Content(""),
        line("  ", key("T", "train one", "app.room('train')") if recipes else key("H", "go home: a sample workspace is one key away", "app.room('home')"), "   ", key("i", "import one", "screen.import")),
    ]  # fmt: skip
    if found.removed:
        rows.append(line("  ", key("u", f"bring {found.removed[0]} back", "screen.undo")))
    return lines(*rows)


def header(width: int) -> Content:
    """The names of the columns, as far as there is room for them."""
    cells = [("adapter", _name(width), False), ("kind", _KIND, False), ("size", _SIZE, True), ("  verdict", _WORD, False)]
    cells += [("contract", _RATE, True)] if width >= 72 else []
    return (
        line("    ", *(col(text, size, right=right) for text, size, right in cells), col("age", _AGE, right=True))
        .stylize("$faint")
        .truncate(max(width, 0))
    )


def _name(width: int) -> int:
    return max(width - 6 - _KIND - _SIZE - _WORD - (_RATE if width >= 72 else 0) - _AGE, 10)


def row(one: Shown, active: bool, now: float, width: int) -> Content:
    """A row of the list, from column 2 on."""
    width += 2
    mark, token = ("✗", "$error") if one.problem else sign(one.word, one.reservation)
    name = line((one.name, "bold"), *((f" {tag}", "$muted") for tag in one.tags), (" ● in use", "$primary") if active else "")
    if one.problem:
        return line((mark, f"bold {token}"), " ", col(name, _name(width) - 1), " ", (one.problem, "$error"))
    parts: list[Part] = [
        (mark, f"bold {token}"),
        " ",
        col(name, _name(width) - 1),
        " ",
        col(one.kind, _KIND, "$muted"),
        col(one.size, _SIZE, "$muted", right=True),
    ]
    parts.append(col(f"  {_word(one)}", _WORD, "" if one.word else "$muted"))
    if width >= 72:
        figure = one.headline
        parts.append(col(f"{figure.before * 100:.0f} → {figure.after * 100:.0f} %" if figure else "", _RATE, right=True))
    return line(*parts, col(age(max(now - one.created, 0)), _AGE, "$faint", right=True))


def note(found: Shelf) -> str:
    """The end of the list's rule."""
    bases = {base_name(one.base) for one in found.adapters if one.base}
    over = f" over {next(iter(bases))}" if len(bases) == 1 else f" over {len(bases)} bases" if bases else ""
    return f"{len(found.adapters):,}{over}"


def _word(one: Shown) -> str:
    """The verdict in a word or two."""
    return f"{one.word}, but" if one.reservation else one.word or "not measured"


def brief(one: Shown) -> str:
    """A few words about it, to choose by."""
    figure = one.headline
    return f"{one.kind}, {_word(one)}{f', {figure.after * 100:.0f} %' if figure else ''}"


def detail(one: Shown, width: int) -> Rows:
    """The verdict, each rate before and after, where it comes from, and what it is."""
    if one.problem:
        return [(("  ✗ ", "bold $error"), ("It cannot be used.", "bold $error")), *_prose(one.problem, width)]
    rows: Rows = []
    mark, token = sign(one.word, one.reservation)
    if one.word:
        first, *rest = wrap(one.verdict, width - 4)
        rows += [((f"  {mark} ", f"bold {token}"), (first, "bold")), *(("    ", (text, "bold")) for text in rest)]
        if one.reservation:
            held = wrap(f"It is not to be promoted: {one.reservation}.", width - 4)
            rows += [(("    ", (text, "$warning"))) for text in held]
        rows += [(("    Its maker says so; nothing here can verify it.", "$warning"),)] if one.told else []
        rows.append(("",))
        for figure in one.figures:
            rows.append(("  ", col(figure.name, width - 2, "$muted")))
            rows.append(_rate(one.rival, figure.before, "", "$muted", width))
            rows.append(_rate("tuned", figure.after, f"{figure.low * 100:.0f}–{figure.high * 100:.0f}", "$primary", width))
    else:
        rows += [(("  ○ ", "$muted"), ("Not measured yet.", "bold")), ("    ", key("E", "evaluate it", "app.room('evaluate')"))]
    if one.parent or one.children:
        rows += [("",), (("  Lineage", "bold"),)]
        rows += [("  ", ("● ", "$muted"), (one.parent, "$muted"))] if one.parent else []
        rows += [("  ", ("└ ", "$line") if one.parent else "", ("● ", "$primary"), (one.name, "bold"))]
        rows += [("  ", "  " if one.parent else "", ("└ ", "$line"), ("● ", "$muted"), (child, "$muted")) for child in one.children]
    rows += [("",), (("  What it is", "bold"),)]
    for name, value in one.facts:
        first, *rest = wrap(value, width - 12)
        rows += [("  ", col(name, 9, "$muted"), first), *((" " * 11, text) for text in rest)]
    return rows


def _rate(name: str, share: float, limits: str, style: str, width: int) -> tuple[Part, ...]:
    room = width - 34
    figure = (f"{share * 100:6.1f} %", "bold" if style == "$primary" else "$muted")
    return (
        "  ",
        col(name, 12, "$muted" if style == "$muted" else ""),
        " ",
        bar(share, room, style),
        " ",
        figure,
        "  ",
        (limits, "$muted"),
    )


def compared(found: Compared, width: int) -> Rows:
    """What differs, and which answers better where both were measured on the same rows."""
    half = max((width - 14) // 2, 6)
    rows: Rows = []
    for fact in found.facts:
        if fact.first or fact.second:
            style = "$muted" if fact.same else "bold"
            changed = "  " if fact.same else "~ "
            rows.append(
                (
                    changed,
                    col(fact.name, 10, "$muted"),
                    col(one_line(fact.first) or "–", half - 1, style),
                    " ",
                    col(one_line(fact.second) or "–", half, style),
                )
            )
    rows.append(("",))
    if found.contrast is None:
        return [*rows, *_prose(f"Not held against each other: {one_line(found.why)}", width)]
    first, *rest = wrap(one_line(found.contrast.verdict), width - 4)
    rows += [("  ", (first, "bold")), *(("  ", (text, "bold")) for text in rest), ("",)]
    for item in found.contrast.comparisons:
        change = f"{100 * item.change:+.0f} points ({100 * item.low:+.0f} to {100 * item.high:+.0f})"
        rows.append(
            (
                "  ",
                col(one_line(item.metric), 24, "$muted"),
                col(change, 28),
                (f"{item.paired.fixed} fixed, {item.paired.broken} broken", "$muted"),
            )
        )
    return rows


def cut(rows: Rows, height: int) -> Content:
    """As many rows as fit, and a word where some do not."""
    if 0 < height < len(rows):
        return lines(
            *(line(*row) for row in rows[: height - 1]),
            line("  ", (f"… {plural(len(rows) - height + 1, 'row')} more   ", "$muted")),
        )
    return lines(*(line(*row) for row in rows))


def _prose(text: str, width: int) -> Rows:
    return [("    ", (part, "$muted")) for part in wrap(text, width - 4)]
