"""Draw the Adapters room: the list, the details of one adapter, and the comparison of two."""

import re

from rich.cells import cell_len
from textual.content import Content

from mlxtune.core.text import size
from mlxtune.present.adapter import EVALUATE, AdapterDetail, adapter_document, kind, score_mark
from mlxtune.present.labels import GLYPHS, percent
from mlxtune.tui import draw
from mlxtune.tui.paths import base_name, relative_paths
from mlxtune.tui.render.text import RECIPE_KEY, Part, age, cell, cut_middle, invitation, key, line
from mlxtune.tui.rooms.adapters.service import LibraryView

KIND, SIZE, OUTCOME, RATE, AGE = 8, 8, 17, 7, 7  # widths of the list's columns
WIDE = 72  # minimum width, in cells, to show the rate column


def empty_state(library: LibraryView | None, has_recipes: bool, width: int) -> Content:
    """Draw the room before there are any adapters."""
    if library is None:
        return Content("")
    return invitation(
        width,
        "No adapters yet.",
        key("T", "train one", "app.room('train')") if has_recipes else RECIPE_KEY,
        key("i", "import one", "screen.import"),
        key("u", f"restore {library.removed[0]}", "screen.undo") if library.removed else None,
        about="Every finished run adds one: a few MB on top of an unchanged base.",
    )


def heading_note(library: LibraryView) -> str:
    bases = {base_name(adapter.entry.base) for adapter in library.adapters if adapter.entry.base}
    suffix = f" on {next(iter(bases))}" if len(bases) == 1 else f" on {len(bases)} bases" if bases else ""
    return f"{len(library.adapters):,}{suffix}"


def list_header(width: int) -> Content:
    cells = [
        cell("adapter", _name_width(width)), cell("kind", KIND), cell("size", SIZE, right=True), cell("  verdict", OUTCOME),
        *([cell("rate", RATE, right=True)] if width >= WIDE else []), cell("age", AGE, right=True),
    ]  # fmt: skip
    return line("    ", *cells).stylize("$faint").truncate(max(width, 0))


def list_row(adapter: AdapterDetail, active: bool, now: float, width: int) -> Content:
    """Draw one row of the list, starting at column 2. ``active`` marks the adapter that Chat uses."""
    width += 2
    entry, (mark, outcome) = adapter.entry, score_mark(adapter.entry)
    score = entry.score
    tags = ((f" {tag}", "$muted") for tag in entry.tags)
    room = _name_width(width) - 1
    is_long = cell_len(entry.name) > room  # then a run's name loses its date, which the age also tells
    short = cut_middle(re.sub(r"^\d{8}-(?=\d{4}-)", "", entry.name), room) if is_long else entry.name
    name = cell(line((short, "bold"), *tags, (" ● in use", "$primary") if active else ""), room)
    glyph = GLYPHS[mark] if score or entry.problem else "○"
    start: list[Part] = [(glyph, f"bold ${mark}"), " ", name, " "]
    if entry.problem:
        return line(*start, cell(relative_paths(entry.workspace, entry.problem), width - 6 - name.cell_length, "$error"))
    cells = [
        cell(kind(entry), KIND, "$muted"),
        cell(size(entry.size), SIZE, "$muted", right=True),
        cell(f"  {outcome}", OUTCOME, "" if score else "$muted"),
    ]
    if width >= WIDE:
        cells.append(cell(percent(score.changes[-1][1].share) if score and score.changes else "", RATE, right=True))
    return line(*start, *cells, cell(age(max(now - entry.created, 0)), AGE, "$faint", right=True))


def _name_width(width: int) -> int:
    return max(width - 6 - KIND - SIZE - OUTCOME - (RATE if width >= WIDE else 0) - AGE, 10)


def detail(adapter: AdapterDetail, width: int, *, evaluating: bool = False) -> list[Content]:
    """Draw an adapter without its name. ``evaluating``: an evaluation, perhaps of another adapter, is running."""
    evaluate = key("E", "watch the running evaluation" if evaluating else "evaluate it", "app.room('evaluate')")
    return draw.rows(adapter_document(adapter)[1:], width, {EVALUATE: evaluate})
