"""How the command line speaks: results on stdout, everything else on stderr, in the words and colours of the app."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from rich.theme import Theme

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import safe_text

_TOKENS = {
    "primary": "#a3a8f5",
    "second": "#b98f3a",
    "success": "#4f9e68",
    "warning": "#d0812f",
    "error": "#d85560",
    "muted": "#8a8f9d",
    "faint": "#7b8090",
    "line": "#6b7080",
}
_THEME = Theme(_TOKENS, inherit=False)

out = Console(theme=_THEME, highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(theme=_THEME, highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)

Cell = str | tuple[str, str]


def line(*parts: Cell) -> Text:
    """Text from plain pieces and ``(text, style)`` pairs; nothing in it is read as markup."""
    return Text.assemble(*((safe_text(part), "") if isinstance(part, str) else (safe_text(part[0]), part[1]) for part in parts))


def say(*parts: Cell) -> None:
    """A line for the reader, on stderr."""
    err.print(line(*parts))


def show(*parts: Cell) -> None:
    """A line of the result, on stdout."""
    out.print(line(*parts))


def show_json(value: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    print(re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text))


def _finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(error: MlxtuneError) -> None:
    """An error: what was wrong, then what to do."""
    say(("✗ ", "bold error"), error.message)
    if error.mend:
        say(("  ", ""), (error.mend, "muted"))


def heading(console: Console, title: str, note: str = "") -> None:
    """A section's title on a light rule, with a note at its right end."""
    width = max(40, min(console.width, 100))
    rule = "─" * max(2, width - len(title) - len(note) - (3 if note else 1))
    console.print(Text.assemble((title, "bold"), " ", (rule, "line"), (f" {note}" if note else "", "muted")))


def columns(rows: Sequence[Sequence[Cell]], *, right: Sequence[int] = (), console: Console | None = None) -> None:
    """Rows with aligned columns, two spaces apart; ``right`` names the columns that align right."""
    texts = [[line(cell) for cell in row] for row in rows]
    widths = [max(row[at].cell_len for row in texts) for at in range(len(texts[0]))] if texts else []
    for row in texts:
        made = Text("  ")
        for at, cell in enumerate(row):
            pad = " " * (widths[at] - cell.cell_len)
            made.append_text(Text(pad) + cell if at in right else cell + Text(pad))
            made.append("  ")
        made.rstrip()
        (console or out).print(made)


def interval(low: float, mid: float, high: float, width: int, style: str) -> Text:
    """A rate with its interval on an axis from 0 to 1."""
    cells: list[tuple[str, str]] = [("·" if at % ((width - 1) // 4) == 0 else " ", "line") for at in range(width)]

    def place(value: float) -> int:
        return round(value * (width - 1))

    for at in range(place(low), place(high) + 1):
        cells[at] = ("━", style)
    cells[place(low)], cells[place(high)] = ("╺", style), ("╸", style)
    cells[place(mid)] = ("●", style)
    return Text.assemble(*cells)


@contextmanager
def bar(what: str) -> Iterator[Any]:
    """A progress bar on stderr; yields ``update(what, share)``. Prints plain lines where stderr is no terminal."""
    if not err.is_terminal:
        last = [""]

        def tell(now: str, share: float) -> None:
            if now != last[0]:
                last[0] = now
                say(("· ", "faint"), now)

        yield tell
        return
    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(40, "line", "primary", "primary"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=1.0)

        def update(now: str, share: float) -> None:
            progress.update(task, description=now, completed=share)

        yield update
