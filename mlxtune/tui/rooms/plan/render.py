"""The panels of the Plan room."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural, safe_text, size
from mlxtune.recipe import Recipe
from mlxtune.recipe.keys import RecipeKey, format_value
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.text import RECIPE_KEY, Part, cell, fold, gigabytes, key, line, lines, section_title, wrap
from mlxtune.tui.status import PLAN_GLYPHS

if TYPE_CHECKING:
    from mlxtune.planning.changes import RecipeChange
    from mlxtune.planning.cost import Bill
    from mlxtune.planning.machine import PowerState
    from mlxtune.planning.plan import Plan

_SECTION, _NAME, _DEFAULT = 12, 17, 12  # widths of the form's columns
VALUE_COLUMN = _SECTION + _NAME + 2  # where a value begins, after its glyph
_ROOMY = 104  # minimum cells in a row to show a description
_PART_NAME = 16  # cells before the bar of a part of the memory
_LABEL = 13  # cells before a value of the side panels


def empty_room(width: int) -> Content:
    """Return the content of the room before there is a recipe."""
    about = "A recipe is a TOML file in recipes/ with everything that a run needs: the model, the rows and the training settings."
    home = line("  ", RECIPE_KEY)
    return lines(fold("No recipes yet.", width, style="bold"), fold(about, width), Content(""), home)


# The verdict


def verdict(plan: Plan, last_memory: int | None, note: str, width: int) -> Content:
    """Return whether the recipe fits, and its memory bar; ``last_memory`` is the memory of the last plan, in bytes."""
    glyph, token = PLAN_GLYPHS[plan.outcome]
    style = "bold" if plan.outcome == "go" else f"bold {token}"
    sentence = fold(plan.sentence, width - 2, indent="    ", style=style)
    first = line((f"  {glyph} ", f"bold {token}"), sentence[4:])
    rows = [first]
    if "\n" not in sentence.plain and first.cell_length + len(note) + 3 <= width:
        rows = [line(first, (f"   {note}", "$muted"))]
    elif note:
        rows.append(fold(note, width, indent="    "))
    return lines(*rows, _memory_bar(plan, last_memory, width))


def _memory_bar(plan: Plan, last_memory: int | None, width: int) -> Content:
    style, glyph = {"go": ("$primary", ""), "warn": ("$warning", "! "), "refuse": ("$error", "✗ ")}[plan.outcome]
    figure = line((glyph, f"bold {style}"), (gigabytes(plan.memory), "bold"), (f" of {gigabytes(plan.limit)} GB", "$muted"))
    tenths = [round(10 * nbytes / 2**30) for nbytes in (plan.memory, plan.memory if last_memory is None else last_memory)]
    change = (tenths[0] - tenths[1]) / 10  # of the figures as they are shown
    difference = f"  {'−' if change < 0 else '+'}{abs(change):.1f}" if change else ""
    label = "  memory  " if width >= 60 else "  "
    gauge = bar(plan.memory / plan.limit, width - len(label) - figure.cell_length - len(difference) - 1, style)
    return line((label, "$muted"), gauge, " ", figure, (difference, "$muted")).truncate(max(width, 0))


def progress(label: str, share: float, width: int) -> Content:
    """Return the progress of the computation before there is a plan."""
    first = line(("  ● ", "bold $primary"), one_line(label))
    return lines(first, line("    ", bar(share, width - 6)) if share else Content(""))


def error(error: MlxtuneError, action: Content | None, width: int) -> Content:
    """Return the reason why there is no plan, and how to proceed."""
    message = fold(safe_text(error.message), width - 2, indent="    ", style="bold $error")
    first = line(("  ✗ ", "bold $error"), message[4:])
    hint = fold(one_line(error.hint), width, "    ", style="") if error.hint else Content("")
    return lines(first, line(hint, "   " if error.hint else "    ", action) if action else hint)


# The form


def form_header(width: int) -> Content:
    """Return the names of the form's columns."""
    names = (Content.styled("key", "$faint"), Content.styled("  value", "$faint"))
    return line("  ", *_form_cells("", *names, "default", "", width - 2)).truncate(max(width, 0))


def form_row(item: RecipeKey, first: bool, recipe: Recipe, edited: bool, width: int) -> Content:
    """Return a key's row: the section (if it is the ``first`` in view), the name, the value, the default and a description."""
    idle = item.unused_reason(recipe)
    style = "$faint" if idle else "" if is_default(item, recipe) else "bold"
    value = line(("~ " if edited else "  ", "bold $primary"), (_display(item.value_in(recipe)), style))
    return line(
        *_form_cells(item.section if first else "", item.name, value, default_value(item), idle or item.about.description, width)
    )


def _form_cells(section: str, name: str | Content, value: Content, default: str, about: str, width: int) -> list[Part]:
    space = width - _SECTION - _NAME - 1 - (_DEFAULT if width >= 60 else 0)
    value_width = max(12, min(30, space // 2) if width >= _ROOMY else min(40, space))
    cells: list[Part] = [cell(section, _SECTION, "$muted"), cell(name, _NAME), cell(value, value_width), " "]
    if width >= 60:
        cells.append(cell(default, _DEFAULT, "$faint"))
    if width >= _ROOMY:
        cells += [" ", cell(about, width - _SECTION - _NAME - value_width - _DEFAULT - 2, "$muted")]
    return cells


def _display(value: object) -> str:
    return "–" if value in ("", [], {}) else one_line(format_value(value))


def is_default(item: RecipeKey, recipe: Recipe) -> bool:
    return item.default is not dataclasses.MISSING and item.value_in(recipe) == item.default


def default_value(item: RecipeKey) -> str:
    """Return the key's default value, or an empty string if the key is required."""
    return "" if item.default is dataclasses.MISSING else _display(item.default)


def key_detail(item: RecipeKey, recipe: Recipe, base: str, width: int) -> Content:
    """Return the meaning of the key under the cursor and its valid values, on two rows, or ``base``, the description of a base model."""
    idle = item.unused_reason(recipe)
    about = f"{item.path}: {item.about.description}." + (f" Currently unused: {idle}." if idle else "")
    words = ", ".join(format_value(choice) for choice in item.choices or item.item_choices)
    choices = f"{'One' if item.choices else 'Any'} of {words}." if words else ""
    default = "" if is_default(item, recipe) or not default_value(item) else f"Default: {default_value(item)}."
    texts = (base,) if base else (about, f"{choices} {default}".strip())
    rows = [row for text in texts for row in wrap(text, width - 2)]
    return lines(*(line((f"  {row}", "$muted")).truncate(max(width, 0)) for row in [*rows, "", ""][:2]))


# Beside the form


def memory_rows(plan: Plan, automatic: bool, width: int) -> list[Content]:
    """Return the parts of the memory. Each bar begins where the one above ends; the largest part is bold.

    ``automatic`` says whether the plan decides if layers are recomputed.
    """
    largest = max(count for _, count, _ in plan.memory_parts)
    rows, start = [], 0.0
    for name, count, _ in plan.memory_parts:
        share = count / max(1, plan.memory)
        segment = _bar_segment(start, share, width - _PART_NAME - 10, "$primary" if count == largest else "$muted")
        figure = cell(size(count) if count else "–", 8, "bold" if count == largest else "", right=True)
        label = cell(name, _PART_NAME - 2, "$muted" if count else "$faint")
        rows.append(line("  ", label, figure, "  ", segment).truncate(max(width, 0)))
        start += share
    recomputed = " Layers are recomputed in the backward pass."
    if not plan.estimate.checkpointed:
        recomputed = " Nothing is recomputed, because it fits." if automatic else ""
    return [*rows, Content(""), *fold(f"Memory peaks {plan.peak_moment}.{recomputed}", width).split("\n")]


def _bar_segment(start: float, share: float, width: int, style: str) -> Content:
    if width <= 0:
        return Content("")
    first, last = round(start * width), round((start + share) * width)
    return line(" " * min(first, width - 1), ("━" * max(1, last - first) if share else "", style)).truncate(width)


def run_rows(plan: Plan, bill: Bill, can_probe: bool, power: PowerState, doubt: str, width: int) -> list[Content]:
    """Return the run's figures as names and values."""
    from mlxtune.evaluation.statistics.power import power_statement

    share = 100 * plan.trained / max(1, plan.computed)
    time: Part = ("unknown until a probe", "$muted")
    if plan.cost.time_summary:
        time = one_line(plan.cost.time_summary)
    elif can_probe:
        time = line(("unknown until  ", "$muted"), key("b", "probe", "screen.probe", "$muted"))
    values: list[tuple[str, Part]] = [
        ("steps", line((f"{plan.steps:,}", "bold"), f" in {plural(plan.epochs, 'epoch')}")),
        ("time", time),
        ("less time", plan.less_time),
    ]
    if bill.kilowatt_hours is not None:
        values.append(("energy", _bill_lines(plan, bill)[0][1]))
    if power.problems:
        values.append(("power", f"! {', '.join(power.problems)}"))
    values.append(("rows", plan.rows_summary))
    if doubt:
        values.append(("checks", f"! {one_line(doubt)}"))
    if plan.rate_warning:
        values.append(("rate", f"! {plan.rate_warning}"))
    if plan.skipped:
        values.append(("skipped", f"! {plural(plan.skipped, 'row')} over max_tokens"))
    if plan.cut:
        values.append(("cut", f"! {plural(plan.cut, 'row')} over max_tokens"))
    if plan.long_answers:
        values.append(("answers", f"! {plan.long_answers_summary}"))
    if plan.incomparable:
        values.append(("evaluated", f"! {plan.incomparable_summary}"))
    values += [("template", f"! {one_line(note)}") for note in plan.notes]
    values += [
        ("batch", f"largest: {plan.largest_batch}"),
        ("trained", f"{plan.trained:,} ({share:.0f}% of {plan.computed:,} computed)"),
        ("longest", f"{plan.longest:,} tokens"),
    ]
    if plan.compile_summary:
        values.append(("compiled", plan.compile_summary))
    values += [(name, one_line(value)) for name, value in plan.template_facts]
    if plan.test:
        values.append(("power", power_statement(plan.compared)))
    return [row for name, value in values for row in _labeled(name, value, width)]


def cost_rows(plan: Plan, bill: Bill, full: bool, width: int) -> list[Content]:
    """Return the cost here and elsewhere. ``full`` adds the source of each figure."""
    rows: list[Content] = []
    for label, cost, note in _bill_lines(plan, bill):
        if full:
            rows += _labeled(label, cost or "unknown", width)
            rows += [line((f"{' ' * _LABEL}{row}", "$muted")) for row in wrap(note, width - _LABEL - 1)]
        elif cost:
            short_note = note.partition(" for ")[0].partition(",")[0]
            rows += _labeled(label, cost if label in ("here", "break-even") else f"{cost}, {short_note}", width)
    return rows


def _bill_lines(plan: Plan, bill: Bill) -> list[tuple[str, str, str]]:
    from mlxtune.planning import cost

    return [(label, one_line(figure), one_line(note)) for label, figure, note in cost.bill_lines(plan, bill)]


def _labeled(name: str, value: Part, width: int) -> list[Content]:
    label = line("  ", cell(name, _LABEL - 2, "$muted"))
    if not isinstance(value, str):
        return [line(label, value).truncate(max(width, 0))]
    first, *rest = (Content(row) for row in wrap(value, width - _LABEL))
    return [
        line(label, first.stylize("bold $warning", 0, 1) if value.startswith("! ") else first),
        *(line(" " * _LABEL, row) for row in rest),
    ]


def change_rows(changes: tuple[RecipeChange, ...], width: int) -> list[Content]:
    """Return the changes that would make the recipe fit, mildest first. Each adds to those above it; the first shows its key."""
    rows: list[Content] = []
    for index, change in enumerate(changes):
        text = ", ".join(setting.partition(".")[2].replace("=", " = ") for setting in change.settings) or change.cost
        if index == 0 and change.settings:
            lead = line(key("g", "", "screen.fit").rstrip(), " ")
        else:
            lead = line(("✓ ", "bold $success") if change.fits and change.settings else ("· ", "$muted"))
        figure = f" {gigabytes(change.peak)}" if change.peak else ""
        first, *rest = wrap(one_line(text), width - 5 - len(figure))
        rows.append(line("  ", lead, cell(first, width - 4 - len(figure), "bold" if index == 0 else ""), (figure, "$muted")))
        rows += [Content(f"    {row}") for row in rest]
        if change.settings:
            rows += [line((f"    {row}", "$muted")) for row in wrap(change.cost, width - 5)]
    return rows


def side_sections(
    plan: Plan, recipe: Recipe, bill: Bill, can_probe: bool, power: PowerState, doubt: str, full: bool, width: int
) -> list[tuple[str, list[Content]]]:
    """Return the titles and rows beside the form, or, with ``full``, of the page with the source of each figure.

    ``doubt`` says why the rows should be checked before training, if they should.
    """
    sections = [
        ("To make it fit", change_rows(plan.changes, width)),
        ("Memory", memory_rows(plan, recipe.training.grad_checkpoint == "auto", width)),
        ("Run", run_rows(plan, bill, can_probe, power, doubt, width)),
        ("Cost" if full else "Elsewhere", cost_rows(plan, bill, full, width)),
    ]
    return [(title, rows) for title, rows in sections if rows]


def side(sections: Sequence[tuple[str, list[Content]]], width: int, height: int = 0) -> list[Content]:
    """Return the rows of ``sections`` below their titles, without empty rows if all but the last would not fit into ``height``.

    If not all rows fit, no title is the last one before the end, which has a key for all of them.
    """
    gap = [] if 0 < height < sum(len(rows) + 3 for _, rows in sections[:-1]) + 3 else [Content("")]
    is_cut = 0 < height < sum(len(rows) + 1 + 2 * len(gap) for _, rows in sections) - len(gap)
    shown: list[Content] = []
    for title, rows in sections:
        shown += gap if shown else []
        left = height - 1 - len(shown)
        shown += [Content("")] * left if is_cut and 0 < left <= 1 + len(gap) else []
        shown += [section_title(title, width), *gap, *rows]
    return shown
