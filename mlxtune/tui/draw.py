"""Draw the blocks of a document in the app.

Each function returns rows for a panel of a given width. An action is shown with its key if the room passes it in ``keys``, which holds
the actions that are possible now.
"""

from collections.abc import Mapping, Sequence

from textual.content import Content

from mlxtune.core.text import one_line, safe_text
from mlxtune.present.blocks import ActionBlock, Bars, Block, Document, Fact, Facts, Heading, Mark, Square, Table, Text
from mlxtune.present.labels import GLYPHS
from mlxtune.tui.render.bars import axis, interval
from mlxtune.tui.render.text import cell, line, section_title, wrap

LABEL = 13  # cells before a value, with the gutter
Keys = Mapping[str, Content]
_BAR_LABEL = 16  # cells before the bar of a part, with the gutter
_MIN_BAR, _MAX_BAR = 12, 40
_GAP = 2


def token(style: str) -> str:
    return " ".join(word if word == "bold" else f"${word}" for word in style.split())


def rows(document: Document, width: int, keys: Keys | None = None) -> list[Content]:
    """Draw every block, with an empty row above each heading but the first."""
    drawn: list[Content] = []
    for block in document:
        if drawn and (isinstance(block, Heading | Square) or (isinstance(block, Table) and block.title)):
            drawn.append(Content(""))
        drawn += block_rows(block, width, keys)
    return drawn


def block_rows(block: Block, width: int, keys: Keys | None = None) -> list[Content]:
    match block:
        case Heading(title, note):
            return [section_title(one_line(title), width, one_line(note))]
        case Text():
            return text_rows(block, width)
        case Facts(facts):
            return [row for fact in facts for row in fact_rows(fact, width, keys)]
        case Bars():
            return bar_rows(block, width)
        case Table():
            return table_rows(block, width)
        case Square():
            return table_rows(block.table, width)
        case ActionBlock(id, _, _):
            return [line("  ", keys[id])] if keys and id in keys else []
    return []


def glyph(mark: Mark) -> Content:
    return Content.styled(f"{GLYPHS[mark]} ", f"bold ${mark}") if mark else Content("")


def text_rows(block: Text, width: int) -> list[Content]:
    """Draw a paragraph after its mark, with later rows indented to match."""
    indent = "    " if block.mark else "  "
    spans = [(span, "") if isinstance(span, str) else (span[0], token(span[1])) for span in block.spans]
    parts = [(safe_text(text).replace("\n", " "), style) for text, style in spans]
    whole = Content.assemble(*parts)
    drawn, start = [], 0
    for index, row in enumerate(wrap(whole.plain, width - len(indent) - 2)):
        start += whole.plain[start : start + 1] == " "
        lead = line("  ", glyph(block.mark)) if index == 0 else Content(indent)
        drawn.append(line(lead, whole[start : start + len(row)]).truncate(max(width, 0)))
        start += len(row)
    return drawn


def fact_rows(fact: Fact, width: int, keys: Keys | None = None, label_width: int = LABEL) -> list[Content]:
    """Draw a label, its value, and its note. A label that does not fit into its column is on a row of its own, before its value."""
    label, value = one_line(fact.label), line(glyph(fact.mark), one_line(fact.value))
    if len(label) > label_width - 3:
        space = width - 3 - value.cell_length
        found = [line("  ", cell(label, space, "bold"), " ", value).truncate(max(width, 0))]
        return found + [
            line((f"    {row}", "$muted")).truncate(max(width, 0)) for row in wrap(one_line(fact.note), width - 5) if row
        ]
    indent, space = " " * label_width, width - label_width - 1
    text = " ".join(filter(None, (value.plain, f" {one_line(fact.note)}" if fact.note else "")))
    found = []
    done = 0  # cells of the value that are drawn, after which the note begins
    for index, row in enumerate(wrap(text, space)):
        shown = Content(row)
        left = max(0, min(len(row), value.cell_length - done))
        done += len(row) + 1
        shown = shown.stylize("$muted", left)
        if index == 0 and fact.mark:
            shown = shown.stylize(f"bold ${fact.mark}", 0, 1)
        lead = line("  ", cell(label, label_width - 2, "$muted")) if index == 0 else Content(indent)
        found.append(line(lead, shown).truncate(max(width, 0)))
    if fact.action and keys and fact.action.id in keys:
        found[-1] = line(found[-1], "  ", keys[fact.action.id]).truncate(max(width, 0))
    return found


def bar_rows(block: Bars, width: int) -> list[Content]:
    """Draw each part with its value and its bar. A note takes the place of the bar's empty end if it fits there."""
    drawn = []
    for bar in block.bars:
        first, length = bar.cells(width - _BAR_LABEL - 10)
        figure = cell(bar.value, 8, "bold" if bar.style == "primary" else "", right=True)
        label = cell(one_line(bar.label), _BAR_LABEL - 2, "$muted" if length else "$faint")
        segment = line(" " * first, ("━" * length, token(bar.style)))
        drawn.append(line("  ", label, figure, "  ", segment).truncate(max(width, 0)))
    return drawn


def table_rows(table: Table, width: int) -> list[Content]:
    """Draw a table with its title and note. Bars and low-priority columns are omitted if they do not fit."""
    drawn = [line((f"  {table.title}", "bold"))] if table.title else []
    drawn += [line((f"  {text}", "$muted")) for text in wrap(table.note, width - 4)] if table.note else []
    for shown in (table.visible(1), table.visible(1, bars=False), table.visible(0, bars=False)):
        columns = list(zip(*shown.rows, strict=True)) or [()] * len(shown.columns)
        widths = [
            max([Content(column.label).cell_length, *(Content(item.text).cell_length for item in items)])
            for column, items in zip(shown.columns, columns, strict=True)
        ]
        bars = [index for index, items in enumerate(columns) if any(item.bar for item in items)]
        spare = width - 4 - sum(widths) - _GAP * (len(widths) - 1)
        if spare >= _MIN_BAR * len(bars):
            break
    for index in bars:
        widths[index] = max(widths[index], min(spare // len(bars), _MAX_BAR))
    if spare < 0:
        widest = widths.index(max(widths))
        widths[widest] = max(widths[widest] + spare, 8)
    if any(column.label for column in shown.columns):
        labels = [cell(one.label, size, "$faint", right=one.right) for one, size in zip(shown.columns, widths, strict=True)]
        drawn.append(_joined(labels, width))
    for items in shown.rows:
        cells = []
        for item, column, size in zip(items, shown.columns, widths, strict=True):
            if item.bar:
                cells.append(interval(*item.bar.shares, size, "$primary"))
            else:
                is_bold = item.style in ("primary", "success", "warning", "error")
                style = f"bold {token(item.style)}" if is_bold else token(item.style)
                cells.append(cell(item.text, size, style, right=column.right))
        drawn.append(_joined(cells, width))
    if any(item.bar and (item.bar.minimum, item.bar.maximum) == (0, 1) for index in bars for item in columns[index]):
        drawn.append(_joined([axis(size) if index in bars else Content(" " * size) for index, size in enumerate(widths)], width))
    return drawn


def _joined(cells: Sequence[Content], width: int) -> Content:
    return line(*(part for item in cells for part in (" " * _GAP, item))).truncate(max(width, 0)).rstrip()
