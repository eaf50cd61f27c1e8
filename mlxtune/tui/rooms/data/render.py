"""Text of the Data room: table rows, findings, the length histogram and the split bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from textual.content import Content

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data import filters
from mlxtune.data.access.spans import IntArray
from mlxtune.data.browser import ReviewVerdict, SourceBrowser
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.corpus import ANSWER
from mlxtune.data.checks.registry import get_check
from mlxtune.data.checks.report import CheckResult
from mlxtune.data.checks.statistics import is_rare
from mlxtune.data.rows import Row, RowError, row_tags
from mlxtune.evaluation.statistics.agreement import AnnotatorAgreement
from mlxtune.present.blocks import Fact, Facts
from mlxtune.present.check import SEVERITY_STYLES, check_title, skip_text, summary_document, tag_blocks
from mlxtune.present.review import agreement_fact, decision_glyph
from mlxtune.tui import draw
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.text import Part, cell, error_rows, key, line, lines, marked, paragraph
from mlxtune.tui.source_session import SourceSession

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PREVIEW = 200  # characters


@dataclass(frozen=True)
class RowColumns:
    """Widths of the table's columns; a width of 0 hides one."""

    row: int
    length: int
    split: int
    tag: int
    finding: int

    @classmethod
    def fit(cls, width: int, browser: SourceBrowser) -> RowColumns:
        """Return the columns of ``browser`` in ``width`` cells without empty ones. The least important ones are hidden first."""
        checked, number = browser.check_result, max(len(f"{len(browser):,}"), 3) + 1
        room = width - 3 - number
        if room < 20:
            return cls(number, 0, 0, 0, 0)
        has_tags = browser.decisions or browser.tags or (checked and checked.statistics.tags)
        has_findings = browser.bad_count or (browser.verdict and browser.verdict.rows)
        return cls(
            number,
            8,
            split=7 if checked and room >= 60 else 0,
            tag=10 if has_tags and room >= 50 else 0,
            finding=13 if has_findings and room >= 30 else 0,
        )


def table_header(columns: RowColumns, unit: str) -> Content:
    return line(
        "     ",
        cell("row", columns.row, right=True),
        cell(unit, columns.length, right=True),
        "  ",
        cell("split", columns.split),
        cell("tag", columns.tag),
        cell("finding", columns.finding),
        "text",
    ).stylize("$faint")  # fmt: skip


def table_row(browser: SourceBrowser, index: int, columns: RowColumns, width: int, unit: str) -> Content:
    """Return one row of the table, starting with its decision glyph. An invalid row shows the reason."""
    row, checked = browser.lazy_row(index).current_or_error, browser.check_result
    first = next(iter(browser.findings(index)), None)
    finding = f"{get_check(first.check).glyph} {get_check(first.check).label}" if first else ""
    severity = first.severity if first else None
    length, length_style, split, tag, preview_style = 0, "", "", "", ""
    if isinstance(row, DataError):
        glyph, style, preview_style = "✗", "error", "$muted"
        finding, severity = finding or f"✗ {get_check('bad-row').label}", severity or "block"
        preview = one_line(row.reason if isinstance(row, RowError) else row.message, _PREVIEW)
    else:
        glyph, style = decision_glyph(browser.decision(index))
        tokens = browser.tokens(index)
        length = tokens if unit == "tokens" else browser.length(index)
        length_style = "bold $warning" if checked and 0 < checked.max_tokens < tokens else ""
        split = browser.split(index) or ""
        tag = _tag(row, browser)
        preview = one_line(browser.preview(row)[: 4 * _PREVIEW], _PREVIEW)
    cells = line(
        (f" {glyph} ", f"bold ${style}"),
        cell(f"{index + 1:,}", columns.row, "$muted", right=True),
        cell(f"{length:,}" if length > 0 else "", columns.length, length_style, right=True),
        "  ",
        cell(split, columns.split, "$muted"),
        cell(tag, columns.tag - 1, "$muted"),
        " " if columns.tag else "",
        cell(finding, columns.finding - 1, f"${SEVERITY_STYLES[severity]}" if severity else ""),
        " " if columns.finding else "",
    )
    return line(cells, cell(preview, width - cells.cell_length, preview_style))


def _tag(row: Row, browser: SourceBrowser) -> str:
    """Return the row's tags, its label, or its value for the first metadata key whose values repeat."""
    tags = browser.check_result.statistics.tags if browser.check_result else {}
    names = (name for name, counts in tags.items() if not name.startswith("answer.") and 2 * len(counts) <= sum(counts.values()))
    value = " ".join(row_tags(row)) or (scored_answer(row)[1] if ANSWER in tags else row.meta.get(next(names, "")))
    return "" if value is None else one_line(str(value), 40)


def position_note(session: SourceSession, position: int) -> str:
    """Return the cursor's position, the number of displayed rows, and the number of undecided ones."""
    browser, selection = session.source, session.selection
    undecided = len(browser) - browser.bad_count - browser.decided_count
    parts = [f"{min(position + 1, len(selection.rows)):,} of {len(selection.rows):,}"]
    if selection.scanned is not None and selection.scanned < len(browser):
        parts.append(f"{selection.scanned / len(browser):.0%} searched")
    elif len(selection.rows) != len(browser):
        parts.append(f"{len(browser):,} in total")
    if session.annotator:
        parts.append(f"as {one_line(session.annotator, 20)}")
    parts.append(f"{undecided:,} undecided" if browser.scanned == len(browser) else f"{browser.scanned / len(browser):.0%} read")
    return ", ".join(parts)


def table_message(session: SourceSession, width: int) -> Content:
    """Draw an error in the filter, a message that nothing matches or why it cannot, or the reason why the checks failed."""
    selection = session.selection
    if selection.error:
        return lines(*marked("✗", "$error", selection.error, width))
    if len(selection.rows) and session.check.error is not None:
        return lines(*error_rows(session.check.error, width))
    if selection.scanned is not None:
        return line(("  ○ searching", "$muted"))
    fields = filters.fields(selection.filter)
    if fields & filters.CHECKED and not session.check.finished and session.check.error is None:
        return line(("  ○ waiting for the checks", "$muted"))
    if "tokens" in fields and (reason := session.source.uncounted):
        text = f"Lengths in tokens are unknown: {skip_text(reason)}.{session.download_hint} Filter by characters instead: len>400"
        return lines(*marked("!", "$warning", text, width))
    return line(("  No rows match.  ", "$muted"), key("bksp", "all rows", "screen.clear_filter"))


def finding_row(check: str, rows: Sequence[int], width: int, under_cursor: bool) -> Content:
    known, title = get_check(check), check_title(check)
    if known.fix.kind == "hand":
        fix = line(("by hand", "$faint"))
    else:
        fix = line(("f", "bold $primary"), (" fix", "$muted")) if under_cursor else line(("f", "$faint"), "    ")
    name = cell(title if len(title) <= width - 17 else known.label, width - 17)
    count = cell(f"{len(rows):,}", 6, "bold", right=True)
    return line((known.glyph, f"bold ${SEVERITY_STYLES[known.severity]}"), "  ", name, count, cell(fix, 8, right=True))


def check_summary(verdict: ReviewVerdict, checked: CheckResult, width: int, *, brief: bool) -> Content:
    """Return the verdict on the source and, unless ``brief``, its size and the most helpful next step."""
    document = summary_document(verdict, checked)
    rows = draw.rows(document[:1] if brief else document, width)
    if verdict.stale and not brief:
        rows.append(line("  ", key(".", "recheck", "screen.check_again")))
    return lines(*rows)


@dataclass(frozen=True)
class LengthHistogram:
    """Row counts by length, in equal steps on a base-2 logarithmic scale from ``low`` to ``high``.

    ``unmeasured`` edited rows are not counted.
    """

    counts: tuple[int, ...]
    low: float
    high: float
    over_limit: int
    median: int
    unmeasured: int

    @classmethod
    def of(cls, lengths: IntArray, unmeasured: int, limit: int, width: int) -> LengthHistogram | None:
        """Count ``lengths`` in ``width`` columns. Return ``None`` if there is nothing to count."""
        lengths = lengths[lengths > 0]
        if not len(lengths) or width < 8:
            return None
        low = math.floor(math.log2(int(lengths.min())))
        high = max(math.ceil(math.log2(int(lengths.max()) + 1)), math.ceil(math.log2(limit)) if limit else 0, low + 2)
        columns = np.rint((np.log2(lengths) - low) / (high - low) * (width - 1)).astype(np.int64)
        counts = np.bincount(columns, minlength=width)[:width]
        over_limit = int((lengths > limit).sum()) if limit else 0
        return cls(tuple(counts.tolist()), low, high, over_limit, int(np.median(lengths)), unmeasured)

    def column(self, length: int) -> int:
        return round((math.log2(max(length, 1)) - self.low) / (self.high - self.low) * (len(self.counts) - 1))


def length_chart(histogram: LengthHistogram, limit: int, why: str, height: int, width: int) -> Content:
    """Draw the histogram with the limit as a dotted line and longer rows in the warning color.

    Without a limit, lengths are in characters, and ``why`` gives the reason as a sentence.
    """
    peak, wall = max(histogram.counts), histogram.column(limit) if limit else -1
    rows: list[Content] = []
    for level in range(height, 0, -1):
        cells: list[Part] = ["  "]
        for column, count in enumerate(histogram.counts):
            eighths = round(count / peak * height * 8) - (level - 1) * 8
            if count and level == 1:
                eighths = max(eighths, 1)
            block = _BLOCKS[max(0, min(8, eighths))]
            over = limit and column > wall
            cells.append(("┊", "$warning") if column == wall and block == " " else (block, "$warning" if over else "$primary"))
        rows.append(line(*cells))
    rows.append(line("  ", (_ticks(histogram, limit), "$faint")))
    without = f", without {plural(histogram.unmeasured, 'edited row')}" if histogram.unmeasured else ""
    if not limit:
        rows.append(paragraph(f"chars{without}: {why}", width))
    elif histogram.over_limit:
        text = f"{plural(histogram.over_limit, 'row')} over the limit of {limit:,}{without}"
        rows += marked("!", "$warning", text, width, "$muted")
    else:
        rows.append(paragraph(f"none over the limit of {limit:,}{without}", width))
    return lines(*rows)


def _ticks(histogram: LengthHistogram, limit: int) -> str:
    width = len(histogram.counts)
    label = list(" " * (width + 4))

    def put(column: int, text: str) -> None:
        column = max(0, min(column, width - len(text)))
        if not "".join(label[max(column - 1, 0) : column + len(text) + 1]).strip():
            label[column : column + len(text)] = text

    if limit:
        put(histogram.column(limit) - len(f"{limit:,}") // 2, f"{limit:,}")
    low, high = math.ceil(histogram.low), math.floor(histogram.high)
    for power in range(low, high + 1, 1 if histogram.high - histogram.low < 5 else 2):
        text = f"{2**power:,}"
        put(histogram.column(2**power) - (len(text) // 2 if power > histogram.low else 0), text)
    return "".join(label).rstrip()


def split_bar(counts: Mapping[Any, int], why: str, width: int) -> Content:
    """Draw the sizes of the splits as one bar with a legend or, without sizes, ``why`` there are none."""
    total = sum(counts.values())
    if not total:
        return paragraph(why, width)
    room = max(width - 2, 3)
    valid, test = (math.ceil(room * counts[name] / total) for name in ("valid", "test"))
    parts = (("train", "━", "$primary", room - valid - test), ("valid", "╍", "$second", valid), ("test", "─", "$muted", test))
    legend = [line((glyph, style), f" {name} ", (f"{counts[name]:,}", "bold")) for name, glyph, style, _ in parts]
    strip = line("  ", *((glyph * max(size, 0), style) for _, glyph, style, size in parts))
    row = line("  ", legend[0], "   ", legend[1], "   ", legend[2])
    return lines(strip, *([row] if row.cell_length <= width else [line("  ", entry) for entry in legend]))


def labels(tags: Mapping[str, Mapping[str, int]], width: int) -> list[Content]:
    """Draw the values of each key as bars, most frequent first. Values that occur in too few rows are marked."""
    return draw.rows(tuple(tag_blocks(tags)), width) if tags else [paragraph("No tags, and no key with few values.", width)]


def coverage(browser: SourceBrowser, checked: CheckResult | None, width: int) -> Content:
    """Draw what share of the rows was decided, how many prompts are distinct, and how many values have enough rows."""
    total = len(browser) - browser.bad_count
    shares = [("decided", browser.decided_count, total)]
    if checked is not None:
        facts = checked.statistics
        counts = [(count, sum(values.values())) for values in facts.tags.values() for count in values.values()]
        shares.append(("distinct", facts.groups, facts.rows))
        shares += [("values", sum(not is_rare(*one) for one in counts), len(counts))] if counts else []
    rows = []
    for name, part, whole in shares:
        tail = cell(f"{part:,} of {whole:,}", 16, right=True)
        rows.append(line("  ", cell(name, 9, "$muted"), bar(part / whole if whole else 0.0, width - 11 - tail.cell_length), tail))
    return lines(*rows)


def agreement(found: Sequence[AnnotatorAgreement], disputed: int, width: int) -> Content:
    facts = [*map(agreement_fact, found)]
    facts += [Fact("disputed", f"{disputed:,}", "filter status:disputed", "warning")] if disputed else []
    return lines(*draw.block_rows(Facts(tuple(facts)), width))
