"""What the Plan room shows: the verdict with its bar, a row of the form, where the memory goes, what the run does, what would fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural, safe_text, size
from mlxtune.recipe import Recipe
from mlxtune.recipe.keys import Key, shown
from mlxtune.tui.draw import Part, bar, col, fold, gigabytes, key, line, lines, wrap

if TYPE_CHECKING:
    from mlxtune.planning.changes import Change
    from mlxtune.planning.cost import Bill
    from mlxtune.planning.plan import Plan

MARKS = {"go": ("✓", "$success"), "warn": ("!", "$warning"), "refuse": ("✗", "$error")}
_BARS = {"go": ("$primary", ""), "warn": ("$warning", "! "), "refuse": ("$error", "✗ ")}
SECTION, NAME, DEFAULT = 12, 17, 12  # cells of a form's columns
VALUE = SECTION + NAME + 2  # where a value begins, behind its sign
_ROOMY = 104  # cells of a row from which there is room for a few words
_ROW = 16  # cells before the bar of a part of the memory


def verdict(found: Plan, was: int | None, note: str, width: int) -> Content:
    """Whether it fits, in a sentence, and the bar; ``was`` is what the plan before the last edit needed, in bytes."""
    mark, token = MARKS[found.word]
    said = fold(found.sentence, width - 2, indent="    ", style=f"bold {'' if found.word == 'go' else token}".strip())
    first = line((f"  {mark} ", f"bold {token}"), said[4:])
    if "\n" not in said.plain and first.cell_length + len(note) + 3 <= width:
        first = line(first, (f"   {note}", "$muted"))
    return lines(first, _bar(found, was, width))


def _bar(found: Plan, was: int | None, width: int) -> Content:
    style, sign = _BARS[found.word]
    figure = line((sign, f"bold {style}"), (gigabytes(found.memory), "bold"), (f" of {gigabytes(found.limit)} GB", "$muted"))
    moved = (found.memory - was) / 2**30 if was is not None else 0.0
    change = f"  {'−' if moved < 0 else '+'}{abs(moved):.1f}" if abs(moved) >= 0.05 else ""
    label = "  memory  " if width >= 60 else "  "
    room = width - len(label) - figure.cell_length - len(change) - 1
    return line((label, "$muted"), bar(found.memory / found.limit, room, style), " ", figure, (change, "$muted")).truncate(
        max(width, 0)
    )


def waiting(what: str, share: float, width: int) -> Content:
    """What is being done before there is a plan."""
    told = line(("  ● ", "bold $primary"), (one_line(what), ""))
    return lines(told, line("    ", bar(share, width - 6)) if share else Content(""))


def trouble(error: MlxtuneError, verb: Content | None, width: int) -> Content:
    """Why there is no plan, and what to do."""
    said = fold(safe_text(error.message), width - 2, indent="    ", style="bold $error")
    first = line(("  ✗ ", "bold $error"), said[4:])
    mend = fold(one_line(error.mend), width, "    ", style="") if error.mend else Content("")
    return lines(first, line(mend, "   " if error.mend else "    ", verb) if verb else mend)


def form_header(width: int) -> Content:
    """The names of the form's columns."""
    cells = _cells("", Content.styled("key", "$faint"), Content.styled("  value", "$faint"), "default", "", width - 2)
    return line("  ", *cells).truncate(max(width, 0))


def form_row(one: Key, first: bool, recipe: Recipe, edited: bool, width: int) -> Content:
    """One key: its section where it is the ``first`` of it that is seen, its name, its value, its default and a few words."""
    idle = one.idle(recipe)
    style = "$faint" if idle else "" if is_default(one, recipe) else "bold"
    text = line(("~ " if edited else "  ", "bold $primary"), (words(one.of(recipe)), style))
    return line(*_cells(one.section if first else "", one.name, text, default(one), idle or one.about, width))


def _cells(section: str, name: str | Content, value: Content, usual: str, about: str, width: int) -> list[Part]:
    cells: list[Part] = [col(section, SECTION, "$muted"), col(name, NAME), col(value, value_width(width)), " "]
    if width >= 60:
        cells.append(col(usual, DEFAULT, "$faint"))
    if width >= _ROOMY:
        cells += [" ", col(about, width - SECTION - NAME - value_width(width) - DEFAULT - 2, "$muted")]
    return cells


def words(value: object) -> str:
    """A value of a recipe, to be read on one line."""
    return "–" if value in ("", []) else one_line(shown(value))


def value_width(width: int) -> int:
    """Cells of the value in a row of ``width`` cells, with the two for its sign."""
    room = width - SECTION - NAME - 1 - (DEFAULT if width >= 60 else 0)
    return max(12, min(30, room // 2) if width >= _ROOMY else min(40, room))


def is_default(one: Key, recipe: Recipe) -> bool:
    return one.default is not dataclasses.MISSING and one.of(recipe) == one.default


def default(one: Key) -> str:
    """The value of a recipe that leaves the key out, to be shown."""
    return "" if one.default is dataclasses.MISSING else words(one.default)


def detail(one: Key, recipe: Recipe, width: int) -> Content:
    """What the key under the cursor means and takes, on two rows."""
    idle = one.idle(recipe)
    told = f"{one.path}: {one.about}." + (f" Not used now: {idle}." if idle else "")
    takes = f"One of {', '.join(shown(choice) for choice in one.choices)}." if one.choices else ""
    usual = (
        ""
        if is_default(one, recipe) or not default(one)
        else f"{'Left out' if one.default == '' else 'By default'} {default(one)}."
    )
    rows = [row for text in (told, f"{takes} {usual}".strip()) for row in wrap(text, width - 2)][:2]
    return lines(*((line((f"  {row}", "$muted")).truncate(max(width, 0))) for row in [*rows, ""][:2]))


def memory_rows(found: Plan, width: int) -> list[Content]:
    """Where the memory goes: each part begins where the one above ends, the largest in bold."""
    from mlxtune.planning import wording

    listed = wording.parts(found)
    most = max(count for _, count, _ in listed)
    room, rows, start = width - _ROW - 10, [], 0.0
    for name, count, _ in listed:
        share = count / max(1, found.memory)
        rows.append(
            line(
                "  ",
                col(name.removesuffix("' cache").removeprefix("MLX's "), _ROW - 2, "$muted" if count else "$faint"),
                col(size(count) if count else "–", 8, "bold" if count == most else "", right=True),
                "  ",
                _piece(start, share, room, "$primary" if count == most else "$muted"),
            ).truncate(max(width, 0))
        )
        start += share
    told = f"Highest {wording.moment(found)}."
    if found.estimate.checkpointed:
        told += " Layers are computed again for the backward pass."
    return [*rows, Content(""), *fold(told, width).split("\n")]


def _piece(start: float, share: float, width: int, style: str) -> Content:
    """A piece of a bar that begins at ``start`` of its length."""
    if width <= 0:
        return Content("")
    first, last = round(start * width), round((start + share) * width)
    return line(" " * min(first, width - 1), ("━" * max(1, last - first) if share else "", style)).truncate(width)


def run_rows(found: Plan, costs: Bill, probing: bool, width: int) -> list[Content]:
    """What the run does and takes, as names and values."""
    from mlxtune.evaluation.power import expectation
    from mlxtune.planning import wording

    listed: list[tuple[str, Part]] = [
        ("steps", line((f"{found.steps:,}", "bold"), f" in {plural(found.epochs, 'epoch')}")),
        ("batch", f"at most {wording.worst(found)}"),
        ("tokens", line((f"{found.trained:,}", "bold"), f" train, {100 * found.trained / max(1, found.computed):.0f} % of {found.computed:,}")),
        ("rows", f"{found.train:,} train, {found.valid:,} validate, {found.test:,} held out"),
        ("longest", f"{found.longest:,} tokens"),
    ]  # fmt: skip
    if found.cut:
        listed.append(("cut", line(("! ", "bold $warning"), f"{plural(found.cut, 'row')} longer than max_tokens")))
    known = wording.time(found.cost)
    unknown: Part = (
        line(("unknown until  ", "$muted"), key("b", "probe", "screen.probe", "$muted"))
        if probing
        else ("unknown until a probe", "$muted")
    )
    listed.append(("time", one_line(known) if known else unknown))
    if costs.kilowatt_hours is not None:
        listed.append(("energy", lines_of(found, costs)[0][1]))
    if found.test:
        listed.append(("evidence", expectation(found.test)))
    return [row for name, value in listed for row in _entry(name, value, width)]


def cost_rows(found: Plan, costs: Bill, whole: bool, width: int) -> list[Content]:
    """What it costs here and elsewhere; ``whole``: with how that is known."""
    rows: list[Content] = []
    for label, told, note in lines_of(found, costs):
        if whole:
            rows += [
                *_entry(label, told or "unknown", width),
                *(line((f"            {row}", "$muted")) for row in wrap(note, width - 13)),
            ]
        elif told:
            rows += _entry(
                label, told if label in ("here", "pays from") else f"{told}, {note.partition(' for ')[0].partition(',')[0]}", width
            )
    return rows


def lines_of(found: Plan, costs: Bill) -> list[tuple[str, str, str]]:
    """The bill in words that a terminal can show."""
    from mlxtune.planning import cost

    return [(label, one_line(told), one_line(note)) for label, told, note in cost.lines(found, costs)]


def _entry(name: str, value: Part, width: int) -> list[Content]:
    head, room = line("  ", col(name, 10, "$muted")), width - 12
    if not isinstance(value, str):
        return [line(head, value).truncate(max(width, 0))]
    first, *rest = wrap(value, room)
    return [line(head, first), *(line(" " * 12, row) for row in rest)]


def change_rows(changes: tuple[Change, ...], width: int) -> list[Content]:
    """What to change, the least harmful first, each on top of the ones above: the next one has its key."""
    rows: list[Content] = []
    for at, change in enumerate(changes):
        what = ", ".join(setting.partition(".")[2].replace("=", " = ") for setting in change.settings) or change.cost
        mark = (
            line(key("g", "", "screen.fit").rstrip(), " ")
            if at == 0 and change.settings
            else line(("✓ ", "bold $success") if change.fits and change.settings else ("· ", "$muted"))
        )
        figure = f" {gigabytes(change.peak)}" if change.peak else ""
        body = wrap(one_line(what), width - 5 - len(figure))
        rows.append(line("  ", mark, col(body[0], width - 4 - len(figure), "bold" if at == 0 else ""), (figure, "$muted")))
        rows += [line("    ", row) for row in body[1:]]
        if change.settings:
            rows += [line((f"    {row}", "$muted")) for row in wrap(change.cost, width - 5)]
    return rows
