"""Draw a report table in the app."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from mlxtune.evaluation.render.comparison_table import ReportTable
from mlxtune.tui.render.bars import axis, interval
from mlxtune.tui.render.text import cell, line, wrap

MIN_BAR, MAX_BAR = 12, 40
STYLES = {"": "", "bold": "bold", "muted": "$muted", "primary": "bold $primary", "success": "bold $success", "error": "bold $error"}
GAP = 2


def table_rows(table: ReportTable, width: int) -> list[Content]:
    """Draw a table with its title and note. Bars and low-priority columns are omitted if they do not fit."""
    rows = [line((f"  {table.title}", "bold"))] if table.title else []
    rows += [line((f"  {text}", "$muted")) for text in wrap(table.note, width - 4)] if table.note else []
    for shown in (table.visible(1), table.visible(1, bars=False), table.visible(0, bars=False)):
        columns = list(zip(*shown.rows, strict=True)) or [()] * len(shown.columns)
        widths = [
            max([Content(column.label).cell_length, *(Content(item.text).cell_length for item in items)])
            for column, items in zip(shown.columns, columns, strict=True)
        ]
        bars = [index for index, items in enumerate(columns) if any(item.bar for item in items)]
        spare = width - 4 - sum(widths) - GAP * (len(widths) - 1)
        if spare >= MIN_BAR * len(bars):
            break
    for index in bars:
        widths[index] = max(widths[index], min(spare // len(bars), MAX_BAR))
    if spare < 0:
        widest = widths.index(max(widths))
        widths[widest] = max(widths[widest] + spare, 8)
    if any(column.label for column in shown.columns):
        labels = [
            cell(column.label, size, "$faint", right=column.right) for column, size in zip(shown.columns, widths, strict=True)
        ]
        rows.append(_joined(labels, width))
    for items in shown.rows:
        cells = []
        for item, column, size in zip(items, shown.columns, widths, strict=True):
            if bar := item.bar:
                span = (bar.maximum - bar.minimum) or 1.0
                low, value, high = ((number - bar.minimum) / span for number in (bar.low, bar.value, bar.high))
                cells.append(interval(low, value, high, size, "$primary"))
            else:
                cells.append(cell(item.text, size, STYLES[item.style], right=column.right))
        rows.append(_joined(cells, width))
    if any(item.bar and (item.bar.minimum, item.bar.maximum) == (0, 1) for index in bars for item in columns[index]):
        rows.append(_joined([axis(size) if index in bars else Content(" " * size) for index, size in enumerate(widths)], width))
    return rows


def _joined(cells: Sequence[Content], width: int) -> Content:
    return line(*(part for item in cells for part in (" " * GAP, item))).truncate(max(width, 0)).rstrip()
