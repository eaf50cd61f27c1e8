"""Draw the Adapters room: the list, the details of one adapter, and the comparison of two."""

from __future__ import annotations

import re

from rich.cells import cell_len
from textual.content import Content

from mlxtune.adapters.compare import AdapterComparison
from mlxtune.core.text import one_line, plural, size
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.verdict import change_text
from mlxtune.tui.paths import base_name
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.text import RECIPE_KEY, Part, age, cell, cut_middle, fold, key, line, lines, marked, wrap
from mlxtune.tui.rooms.adapters.service import AdapterView, LibraryView
from mlxtune.tui.status import verdict_style

KIND, SIZE, OUTCOME, RATE, AGE = 8, 8, 17, 7, 7  # widths of the list's columns
WIDE = 72  # minimum width, in cells, to show the rate column


def empty_state(library: LibraryView | None, has_recipes: bool, width: int) -> Content:
    """Draw the room before there are any adapters."""
    if library is None:
        return Content("")
    text = "Every finished run adds one: a few MB on top of an unchanged base. Compare, rename, fuse, export and remove them here."
    first = key("T", "train one", "app.room('train')") if has_recipes else RECIPE_KEY
    rows = [
        fold("No adapters yet.", width, style="bold"),
        fold(text, width),
        Content(""),
        line("  ", first, "   ", key("i", "import one", "screen.import")),
    ]
    if library.removed:
        rows.append(line("  ", key("u", f"restore {library.removed[0]}", "screen.undo")))
    return lines(*rows)


def heading_note(library: LibraryView) -> str:
    """Return the number of adapters, and their base."""
    bases = {base_name(adapter.base) for adapter in library.adapters if adapter.base}
    suffix = f" on {next(iter(bases))}" if len(bases) == 1 else f" on {len(bases)} bases" if bases else ""
    return f"{len(library.adapters):,}{suffix}"


def list_header(width: int) -> Content:
    """Draw the column names."""
    cells = [
        cell("adapter", _name_width(width)), cell("kind", KIND), cell("size", SIZE, right=True), cell("  verdict", OUTCOME),
        *([cell("rate", RATE, right=True)] if width >= WIDE else []), cell("age", AGE, right=True),
    ]  # fmt: skip
    return line("    ", *cells).stylize("$faint").truncate(max(width, 0))


def list_row(adapter: AdapterView, active: bool, now: float, width: int) -> Content:
    """Draw one row of the list, starting at column 2. ``active`` marks the adapter that Chat uses."""
    width += 2
    score, problem = adapter.score, adapter.problem
    glyph, token = ("✗", "$error") if problem else verdict_style(score.outcome, score.caveat) if score else ("○", "$muted")
    tags = ((f" {tag}", "$muted") for tag in adapter.tags)
    name = cell(
        line((_short_name(adapter.name, _name_width(width) - 1), "bold"), *tags, (" ● in use", "$primary") if active else ""),
        _name_width(width) - 1,
    )
    start: list[Part] = [(glyph, f"bold {token}"), " ", name, " "]
    if problem:
        return line(*start, cell(problem, width - 6 - name.cell_length, "$error"))
    cells = [
        cell(adapter.kind, KIND, "$muted"),
        cell(adapter.size, SIZE, "$muted", right=True),
        cell(f"  {_outcome(adapter)}", OUTCOME, "" if score else "$muted"),
    ]
    if width >= WIDE:
        cells.append(cell(f"{score.changes[-1][1].share:.1%}" if score and score.changes else "", RATE, right=True))
    return line(*start, *cells, cell(age(max(now - adapter.created, 0)), AGE, "$faint", right=True))


def _short_name(name: str, width: int) -> str:
    """Return ``name`` cut to ``width`` cells. The name of a run first loses its date, which the age also tells."""
    return name if cell_len(name) <= width else cut_middle(re.sub(r"^\d{8}-(?=\d{4}-)", "", name), width)


def _name_width(width: int) -> int:
    return max(width - 6 - KIND - SIZE - OUTCOME - (RATE if width >= WIDE else 0) - AGE, 10)


def _outcome(adapter: AdapterView) -> str:
    return adapter.score.label if adapter.score else "not evaluated"


def brief(adapter: AdapterView) -> str:
    """Return the adapter's kind, outcome and rate in a few words."""
    changes = adapter.score.changes[-1:] if adapter.score else []
    rate = "".join(f", {metric_label(after.metric)} {after.share:.1%}" for _, after in changes)
    return f"{adapter.kind}, {_outcome(adapter)}{rate}"


def detail(adapter: AdapterView, width: int, *, evaluating: bool = False) -> list[Content]:
    """Draw an adapter's verdict, rates, lineage and facts. ``evaluating``: an evaluation, perhaps of another adapter, is running."""
    if adapter.problem:
        return [*marked("✗", "$error", "This adapter cannot be used.", width, "bold"), *_muted(adapter.problem, width)]
    score = adapter.score
    if score is None:
        evaluate = line("    ", key("E", "watch the running evaluation" if evaluating else "evaluate it", "app.room('evaluate')"))
        rows = [*marked("○", "$muted", "Not evaluated yet.", width, "bold"), evaluate]
    else:
        rows = marked(*verdict_style(score.outcome, score.caveat), score.verdict, width, "bold")
        if score.caveat:
            rows += _muted(f"Not recommended: {score.caveat}.", width, "$warning")
        if score.folder is None:
            rows += _muted("Claimed by its author; not verified on this machine.", width, "$warning")
        rows += [*_muted(f"On {plural(score.rows, 'held-out row')}:", width), Content("")]
        for before, after in score.changes:
            rows.append(line("  ", cell(metric_label(after.metric), width - 2, "$muted")))
            rows.append(_rate_row(score.rival, before.share, "", "$muted", width))
            rows.append(_rate_row(score.arm, after.share, f"{100 * after.low:.0f}–{100 * after.high:.0f}", "$primary", width))
    if adapter.parent or adapter.children:
        rows += [Content(""), line(("  Lineage", "bold"))]
        rows += [line("  ", (f"● {adapter.parent}", "$muted"))] if adapter.parent else []
        rows.append(line("  ", ("└ ", "$line") if adapter.parent else "", ("● ", "$primary"), (adapter.name, "bold")))
        indent = "    " if adapter.parent else "  "
        rows += [line(indent, ("└ ", "$line"), (f"● {child}", "$muted")) for child in adapter.children]
    if adapter.exports or adapter.copies or adapter.failed_export:
        rows += [Content(""), line(("  Exports", "bold"))]
        for export in adapter.exports:
            figures = cell(size(export.nbytes), 8, "$muted", right=True), " ", cell(export.rate, 7, right=True)
            rows.append(line("  ", cell(export.label, width - 18), *figures))
            points = f"{export.points} points on {plural(export.rows, 'row')}"
            cost = points if export.points else f"{export.identical} answers identical"
            rows += _muted(f"{cost}, measured in {export.program}", width)
            doubtful = export.proof.failure or export.proof.is_lossy
            rows += _muted(export.proof.summary, width, "$warning" if doubtful else "$muted")
            rows += _muted(f"in {export.target}", width)
            rows += [row for command in export.commands for row in _muted(command, width, "$primary")]
        for copy in adapter.copies:
            rows.append(line("  ", f"the adapter alone, for {copy.program}"))
            rows += _muted(f"in {copy.folder}", width)
        if failed := adapter.failed_export:
            rows += [*marked("✗", "$error", f"The last export, {failed.form}, failed.", width), *_muted(failed.reason, width)]
    rows += [Content(""), line(("  Details", "bold"))]
    for name, value in adapter.facts:
        first, *rest = wrap(value, width - 13)
        rows += [line("  ", cell(name, 9, "$muted"), first), *(Content(f"{'':11}{text}") for text in rest)]
    return rows


def _rate_row(name: str, rate: float, limits: str, token: str, width: int) -> Content:
    own = token == "$primary"
    figure = (f"{f'{rate:.1%}':>7}", "bold" if own else "$muted")
    label = cell(name, 13, "" if own else "$muted")
    return line("  ", label, " ", bar(rate, width - 34, token), " ", figure, "  ", (limits, "$muted"))


def comparison(compared: AdapterComparison, width: int) -> list[Content]:
    """Draw how two adapters differ and, if both were evaluated on the same rows, which is better."""
    half = max((width - 14) // 2, 6)
    rows: list[Content] = []
    for fact in compared.facts:
        if fact.first or fact.second:
            style = "$muted" if fact.same else "bold"
            first, second = (one_line(value) or "–" for value in (fact.first, fact.second))
            glyph, name = "  " if fact.same else "~ ", cell(fact.name, 10, "$muted")
            rows.append(line(glyph, name, cell(first, half - 1, style), " ", cell(second, half, style)))
    rows.append(Content(""))
    if compared.contrast is None:
        return [*rows, *_muted(f"Not compared: {one_line(compared.reason)}", width)]
    rows += [line(("  " + row, "bold")) for row in wrap(one_line(compared.contrast.verdict), width - 4)]
    rows.append(Content(""))
    for item in compared.contrast.comparisons:
        change = f"{change_text(item.low, item.change, item.high)} points"
        counts = f"{item.paired.fixed} fixed, {item.paired.broken} broken"
        rows.append(line("  ", cell(one_line(item.metric), 24, "$muted"), cell(change, 28), (counts, "$muted")))
    return rows


def _muted(text: str, width: int, style: str = "$muted") -> list[Content]:
    return [line((f"    {row}", style)) for row in wrap(text, width - 6)]
