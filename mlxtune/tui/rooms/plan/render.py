"""The panels of the Plan room."""

import dataclasses
from collections.abc import Sequence

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.planning.cost import make_bill
from mlxtune.planning.machine import PowerState, this_machine
from mlxtune.planning.plan import Plan, PlannedRecipe
from mlxtune.present import plan as present
from mlxtune.present.blocks import Facts, Heading
from mlxtune.present.labels import outcome_mark
from mlxtune.present.plan import plan_document
from mlxtune.recipe import Recipe
from mlxtune.recipe.keys import RecipeKey, format_value
from mlxtune.tui import draw
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.text import Part, cell, error_rows, gigabytes, line, lines, paragraph, section_title, wrap

_SECTION, _NAME, _DEFAULT = 12, 17, 12  # widths of the form's columns


# The verdict


def verdict(plan: Plan, last_memory: int | None, note: str, width: int) -> Content:
    """Return whether the recipe fits, and its memory bar; ``last_memory`` is the memory of the last plan, in bytes."""
    sentence = draw.text_rows(present.verdict(plan), width)
    if len(sentence) == 1 and sentence[0].cell_length + len(note) + 3 <= width:
        sentence = [line(sentence[0], (f"   {note}", "$muted"))]
    elif note:
        sentence.append(paragraph(note, width, indent="    "))
    mark = outcome_mark(plan.outcome)
    lead, style = (Content(""), "$primary") if plan.outcome == "go" else (draw.glyph(mark), f"${mark}")
    figure = line(lead, (gigabytes(plan.memory), "bold"), (f" of {gigabytes(plan.limit)} GB", "$muted"))
    tenths = [round(10 * nbytes / 2**30) for nbytes in (plan.memory, plan.memory if last_memory is None else last_memory)]
    change = (tenths[0] - tenths[1]) / 10  # of the figures as they are shown
    difference = f"  {'−' if change < 0 else '+'}{abs(change):.1f}" if change else ""
    label = "  memory  " if width >= 60 else "  "
    gauge = bar(plan.memory / plan.limit, width - len(label) - figure.cell_length - len(difference) - 1, style)
    return lines(*sentence, line((label, "$muted"), gauge, " ", figure, (difference, "$muted")))


def progress(label: str, share: float, width: int) -> Content:
    first = line(("  ● ", "bold $primary"), one_line(label))
    return lines(first, line("    ", bar(share, width - 6)) if share else Content(""))


def error(error: MlxtuneError, action: Content | None, width: int) -> Content:
    return lines(*error_rows(error, width), *([line("    ", action)] if action else []))


# The form


def form_header(width: int) -> Content:
    names = (Content.styled("key", "$faint"), Content.styled("  value", "$faint"))
    return line("  ", *_form_cells("", *names, "default", width - 2))


def form_row(item: RecipeKey, first: bool, recipe: Recipe, edited: bool, width: int) -> Content:
    """Return a key's row: the section (if it is the ``first`` in view), the name, the value and the default."""
    style = "$faint" if item.unused_reason(recipe) else "" if is_default(item, recipe) else "bold"
    value = line(("~ " if edited else "  ", "bold $primary"), (_display(item, item.value_in(recipe)), style))
    return line(*_form_cells(item.section if first else "", item.name, value, default_value(item), width))


def _form_cells(section: str, name: str | Content, value: Content, default: str, width: int) -> list[Part]:
    space = width - _SECTION - _NAME - 1 - (_DEFAULT if width >= 60 else 0)
    cells: list[Part] = [cell(section, _SECTION, "$muted"), cell(name, _NAME), cell(value, max(12, min(40, space))), " "]
    return [*cells, cell(default, _DEFAULT, "$faint")] if width >= 60 else cells


def _display(item: RecipeKey, value: object) -> str:
    return "by rule" if item.about.by_rule and not value else "–" if value in ("", [], {}) else one_line(format_value(value))


def is_default(item: RecipeKey, recipe: Recipe) -> bool:
    return item.default is not dataclasses.MISSING and item.value_in(recipe) == item.default


def default_value(item: RecipeKey) -> str:
    """Return the key's default value, or an empty string if the key is required."""
    return "" if item.default is dataclasses.MISSING else _display(item, item.default)


def key_detail(item: RecipeKey, recipe: Recipe, base: str, width: int) -> Content:
    """Return the meaning of the key under the cursor and its valid values, on two rows, or ``base``, the description of a base model."""
    idle = item.unused_reason(recipe)
    about = f"{item.path}: {item.about.description}." + (f" Currently unused: {idle}." if idle else "")
    words = ", ".join(format_value(choice) for choice in item.choices or item.item_choices)
    choices = f"{'One' if item.choices else 'Any'} of {words}." if words else ""
    default = "" if is_default(item, recipe) or not default_value(item) else f"Default: {default_value(item)}."
    texts = (base,) if base else (about, f"{choices} {default}".strip())
    rows = [row for text in texts for row in wrap(text, width - 2)]
    return lines(*(line((f"  {row}", "$muted")) for row in [*rows, "", ""][:2]))


# Beside the form


def side_sections(
    planned: PlannedRecipe, power: PowerState, check_note: str, keys: draw.Keys, full: bool, width: int
) -> list[tuple[str, list[Content]]]:
    """Return the titles and rows beside the form, or, with ``full``, of the page with the source of each figure.

    ``check_note`` says why the rows should be checked before training, if they should; ``keys`` has the actions that are possible now.
    """
    sections: list[tuple[str, list[Content]]] = []
    bill = make_bill(planned.plan, planned.complete.method.kind, chip=this_machine().chip)
    for block in plan_document(planned.plan, bill, power, check_note=check_note)[2:]:
        if isinstance(block, Heading):
            sections.append((block.title, []))
            continue
        if isinstance(block, Facts) and sections[-1][0] == "Cost" and not full:
            block = block.brief()
        sections[-1][1].extend(draw.block_rows(block, width, keys))
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
