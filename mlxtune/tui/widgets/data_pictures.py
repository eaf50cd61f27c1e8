"""What the Data room draws: a row of its table, the findings, the lengths as a histogram, the split as a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.content import Content

from mlxtune.core.text import plural
from mlxtune.tui.draw import Part, col, fold, key, line, lines
from mlxtune.tui.row_view import RowView, name_of

if TYPE_CHECKING:
    from mlxtune.data.browse import Standing
    from mlxtune.data.checks.notes import Facts
    from mlxtune.data.scan import Numbers

INK = {"block": "$error", "warn": "$warning", "note": "$muted"}
VERDICTS = {"blocked": ("✗", "$error"), "look": ("!", "$warning"), "clean": ("✓", "$success")}
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Columns:
    """How wide the table's columns are; 0 leaves one out."""

    row: int
    length: int
    share: int
    tag: int
    finding: int

    @classmethod
    def of(cls, width: int, count: int) -> Columns:
        """Columns for ``count`` rows in ``width`` cells: what matters least goes first."""
        number = max(len(f"{count:,}"), 3) + 1
        room = width - 3 - number
        found = cls(number, 8, 7 if room >= 60 else 0, 10 if room >= 50 else 0, 13 if room >= 30 else 0)
        return found if room >= 20 else cls(number, 0, 0, 0, 0)


def header(columns: Columns, width: int, unit: str) -> Content:
    """The names of the columns."""
    cells: list[Part] = ["     ", col("row", columns.row, right=True)]
    if columns.length:
        cells += [col(unit, columns.length, right=True)]
    for name, size in (("split", columns.share), ("tag", columns.tag), ("finding", columns.finding)):
        cells += ["  " if name == "split" and size else "", col(name, size)]
    return line(*cells, "  " if not columns.share else "", "text").truncate(max(width, 0)).stylize("$faint")


def table_row(row: RowView, columns: Columns, width: int, unit: str) -> Content:
    """One row of the table, from the sign of what was decided on."""
    tokens = row.tokens if unit == "tokens" else row.length
    long = "bold $warning" if row.long else ""
    cells: list[Part] = [(f" {row.mark} ", f"bold {row.token}"), col(f"{row.at + 1:,}", columns.row, "$muted", right=True)]
    if columns.length:
        cells += [col(f"{tokens:,}" if tokens > 0 else "", columns.length, long, right=True)]
    cells += ["  ", col(row.share, columns.share, "$muted"), col(row.tag, columns.tag - 1, "$muted"), " " if columns.tag else ""]
    cells += [col(row.finding, columns.finding - 1, INK.get(row.severity, "")), " " if columns.finding else ""]
    shown = line(*cells)
    return line(shown, col(row.preview, width - shown.cell_length, "" if row.readable else "$muted"))


def finding_row(check: str, rows: Sequence[int], width: int, here: bool) -> Content:
    """How many rows a check found something about; under the cursor, how it is mended."""
    from mlxtune.data.checks.finding import CHECKS

    known = CHECKS[check]
    wide = width >= 60
    way = line(("f", "bold $primary"), (" fix", "$muted")) if here else line(("f", "$faint"), "    ")
    if known.fix.how == "hand":
        way = line(("hand", "$faint"))
    return line(
        (known.mark, f"bold {INK[known.severity]}"),
        "  ",
        col(known.title if wide else name_of(check), width - 16),
        col(f"{len(rows):,}", 6, "bold", right=True),
        col(way, 7, right=True),
    )


def standing_picture(standing: Standing, facts: Facts, skipped: Mapping[str, str], width: int, *, brief: bool) -> Content:
    """What the findings mean, how much data there is, and the next thing that would help; only the first where it must be ``brief``."""
    from mlxtune.data.checks.notes import advice

    mark, token = VERDICTS[standing.word]
    said = fold(standing.sentence, width - 2, "    ", "")
    verdict = line((f"  {mark} ", f"bold {token}"), said[4:])
    if brief:
        return verdict
    rows = [
        verdict,
        fold(f"{facts.tier[:1].upper()}{facts.tier[1:]}: {plural(facts.groups, 'different prompt')}.", width, "    "),
        fold(advice(facts, standing.findings, "f"), width, "    "),
    ]
    if "contract" in skipped:
        rows.append(fold(f"○ contract not checked: {skipped['contract']}", width, "    "))
    return lines(*rows)


@dataclass(frozen=True)
class Histogram:
    """How many rows are how long: ``counts`` over lengths whose logarithms to the base 2 go from ``low`` to ``high``."""

    counts: tuple[int, ...]
    low: float
    high: float
    over: int
    median: int

    def place(self, value: float) -> int:
        """The column of a length."""
        return round((math.log2(max(value, 1)) - self.low) / (self.high - self.low) * (len(self.counts) - 1))


def histogram(values: Numbers, limit: int, width: int) -> Histogram | None:
    """``values`` counted in ``width`` columns; ``None`` where there are none."""
    import numpy as np

    values = values[values > 0]
    if not len(values) or width < 8:
        return None
    low = math.floor(math.log2(int(values.min())))
    high = max(math.ceil(math.log2(int(values.max()) + 1)), math.ceil(math.log2(limit)) if limit else 0, low + 2)
    at = np.rint((np.log2(values) - low) / (high - low) * (width - 1)).astype(np.int64)
    counts = np.bincount(at, minlength=width)[:width]
    over = int((values > limit).sum()) if limit else 0
    return Histogram(tuple(counts.tolist()), low, high, over, int(np.median(values)))


def histogram_picture(found: Histogram, limit: int, why: str, high: int, width: int) -> Content:
    """The counts as columns of blocks, the limit as a dotted line, what is beyond it in the colour of a warning; and a sentence.

    Without a limit lengths are in characters, and ``why`` says so.
    """
    peak, wall = max(found.counts), found.place(limit) if limit else -1
    rows: list[Content] = []
    for level in range(high, 0, -1):
        cells: list[Part] = ["  "]
        for at, count in enumerate(found.counts):
            eighths = round(count / peak * high * 8) - (level - 1) * 8
            if count and level == 1:
                eighths = max(eighths, 1)
            block = _BLOCKS[max(0, min(8, eighths))]
            beyond = limit and at > wall
            cells.append(("┊", "$warning") if at == wall and block == " " else (block, "$warning" if beyond else "$primary"))
        rows.append(line(*cells))
    rows.append(line("  ", (_ticks(found, limit), "$faint")))
    if limit and found.over:
        rows.append(line(("  ! ", "bold $warning"), (f"{plural(found.over, 'row')} over the limit of {limit:,}", "$muted")))
    elif limit:
        rows.append(line((f"  none over the limit of {limit:,}", "$muted")))
    else:
        rows.append(fold(why, width))
    return lines(*rows)


def _ticks(found: Histogram, limit: int) -> str:
    """Labels under the columns: every doubling or every second one, and the limit."""
    label = list(" " * (len(found.counts) + 4))

    def put(at: int, text: str) -> None:
        at = max(0, min(at, len(found.counts) - len(text)))
        if all(sign == " " for sign in label[max(at - 1, 0) : at + len(text) + 1]):
            label[at : at + len(text)] = text

    if limit:
        text = f"{limit:,}"
        put(found.place(limit) - len(text) // 2, text)
    for power in range(math.ceil(found.low), math.floor(found.high) + 1, 1 if found.high - found.low < 5 else 2):
        text = f"{2**power:,}"
        put(found.place(2**power) - (len(text) // 2 if power > found.low else 0), text)
    return "".join(label).rstrip()


def split_picture(shares: Mapping[Any, int], why: str, width: int) -> Content:
    """The shares as one bar, with what each has; ``why`` where there are none."""
    total = sum(shares.values())
    if not total:
        return fold(why, width)
    room = max(width - 2, 3)
    valid, test = (math.ceil(room * shares[name] / total) for name in ("valid", "test"))
    parts = (("━", "$primary", room - valid - test), ("╍", "$second", valid), ("─", "$muted", test))
    said = [
        line((sign, ink), f" {name} ", (f"{shares[name]:,}", "bold"))
        for (sign, ink, _), name in zip(parts, ("train", "valid", "test"), strict=True)
    ]
    bar = line("  ", *((sign * max(size, 0), ink) for sign, ink, size in parts))
    legend = line("  ", said[0], "   ", said[1], "   ", said[2])
    return lines(bar, legend if legend.cell_length <= width else lines(*(line("  ", one) for one in said)))


def nothing_found(doing: str, share: float, width: int) -> Content:
    """While the check is at work: what it does and how far it is."""
    done = f" {share:.0%}" if share else ""
    return fold(f"● {doing or 'starting the check'}{done}", width)


def key_line(*keys: tuple[str, str, str]) -> Content:
    """Keys in a row: each its name, what it does, and the action."""
    return line("  ", *(part for name, word, action in keys for part in (key(name, word, action), "   ")))
