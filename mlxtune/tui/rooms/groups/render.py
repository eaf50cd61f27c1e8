"""The groups that remain to be decided on, and how the Groups room draws them, their members, and two members side by side."""

import os
from collections.abc import Sequence
from itertools import zip_longest

from textual.content import Content

from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line, plural
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.base import Finding, Span
from mlxtune.data.checks.registry import get_check
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.groups import PROPOSED, RowGroup, by_size, most_diverse
from mlxtune.data.review import EXCLUDED
from mlxtune.data.rows import Row, last_prompt, row_text
from mlxtune.present.review import decision_glyph
from mlxtune.tui.render.output_text import FAILURE_STYLE, Words, difference_styles, styled_rows, word_diff
from mlxtune.tui.render.source import role_glyph
from mlxtune.tui.render.text import cell, invitation, key, line, paragraph, side_by_side
from mlxtune.tui.rooms.review.render import RowPart, parts_of
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import Lines

_COMPARED = 20  # members whose beginnings are compared


def remaining(browser: SourceBrowser, groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Return ``groups`` without rows that are left out, and without groups that have nothing left to compare."""
    if groups and groups[0].kind == PROPOSED:
        decided = {index for index, decision in browser.decisions.items() if not decision.is_undecided}
        return [left for group in groups if (left := group.without(decided)).rows]
    left_out = {index for index, decision in browser.decisions.items() if decision.status in EXCLUDED}
    return by_size(group.without(left_out) for group in groups) if left_out else list(groups)


def proposed_rows(browser: SourceBrowser) -> dict[int, Row]:
    waiting = (index for index in browser.rows if browser.decision(index).is_undecided)
    return {index: row for index in waiting if (row := browser.lazy_row(index).current_or_none) is not None and lineage_of(row)}


def diverse_rows(session: SourceSession, group: RowGroup, count: int) -> tuple[int, ...]:
    texts = {index: row_text(row) for index in group.rows if (row := session.source.lazy_row(index).current_or_none) is not None}
    return tuple([*texts][position] for position in most_diverse([*texts.values()], count))


def flagged_spans(findings: Sequence[Finding]) -> dict[str, list[Span]]:
    return grouped((span.part, span) for finding in findings if finding.severity != "note" for span in finding.spans)


def shared_beginning(browser: SourceBrowser, group: RowGroup) -> str:
    """Return the words that the prompts of the group's first members begin with, if they differ after that."""
    rows = (browser.lazy_row(index).current_or_none for index in group.rows[:_COMPARED])
    texts = [last_prompt(row) for row in rows if row is not None]
    if len(set(texts)) < 2:
        return ""
    shared = os.path.commonprefix(texts)  # noqa: RUF071, which means whole names
    return shared[: shared.rfind(" ") + 1]


_MAX_TEXT = 8000  # characters of a part that are compared and shown
_PREVIEW = 200
_COMPARABLE = 1 / 3  # minimum share of the longer text that two rows of a cluster have in common
_GLYPHS = {"cluster": ("◇", "$muted"), "proposed": ("◇", "$muted"), "outliers": ("!", "$warning")}


def group_row(browser: SourceBrowser, group: RowGroup, width: int) -> Content:
    glyph, style = _GLYPHS.get(group.kind) or (get_check(group.kind).glyph, "$warning")
    name = {"near-duplicate": "near-dup"}.get(group.kind, group.kind)
    about = group.label
    if not about and (row := browser.lazy_row(group.rows[0]).current_or_none) is not None:
        about = one_line(browser.preview(row)[: 2 * _PREVIEW], _PREVIEW)
    return line(
        cell(f"{len(group.rows):,}", 6, "bold", right=True), "  ", (glyph, f"bold {style}"), " ", cell(name, 11, "$muted"),
        cell(about, width - 21),
    )  # fmt: skip


def groups_message(found: int, view: str, progress: str, error: str, width: int) -> Content:
    if error:
        return paragraph(f"✗ {error}", width, style="$error")
    if progress:
        return line((f"  ● {progress}", "$muted"))
    if found:
        return Content("")
    if view != "repeats":
        return paragraph("Too few rows to cluster." if view == "clusters" else "No proposed rows are left.", width)
    clusters = key("g", "cluster all rows by similarity", "screen.clusters")
    return invitation(width, "No duplicates, near-duplicates or conflicts are left.", clusters)


def member_row(browser: SourceBrowser, rows: Sequence[int], prefix: str, position: int, width: int) -> Content:
    """Return a member with its decision and its distinguishing text. ``prefix`` is the shared beginning of the members' prompts."""
    index = rows[position]
    glyph, style = decision_glyph(browser.decision(index))
    row = browser.lazy_row(index).current_or_none
    text = "" if row is None else last_prompt(row)[: 4 * _PREVIEW].removeprefix(prefix)
    lead = "…" if prefix and row is not None else ""
    split = browser.split(index) or ""
    cells = line((f"{glyph} ", f"bold ${style}"), cell(f"{index + 1:,}", 8, "$muted", right=True), "  ", cell(split, 6, "$muted"))
    return line(cells, cell(lead + one_line(text, _PREVIEW), width - cells.cell_length))


def comparison(browser: SourceBrowser, kind: str, left: int, right: int, width: int) -> Lines:
    """Return two rows of a group side by side, part by part. Differences are underlined, and spans that a finding flags are
    highlighted.
    """
    one, two = browser.lazy_row(left).current_or_none, browser.lazy_row(right).current_or_none
    if one is None or two is None:
        return [paragraph("This row cannot be read.", width)], [0]
    if left == right:
        return _single(browser, left, one, width), [0]
    half = (width - 3) // 2
    spans = flagged_spans(browser.findings(left)), flagged_spans(browser.findings(right))
    heads = [line(("  ", ""), (f"Row {index + 1:,}", "bold")) for index in (left, right)]
    rows = [line(cell(heads[0], half), "   ", heads[1]), Content("")]
    for first, second in zip_longest(parts_of(one), parts_of(two)):
        if first is not None and second is not None and first.role == "system" and first.text == second.text:
            continue  # system prompts are usually long and identical
        texts = [part.text[:_MAX_TEXT] if part else "" for part in (first, second)]
        words = word_diff(texts[0], texts[1])
        shared = sum(len(text) for text, differs in words[0] if not differs)
        if kind in _GLYPHS and shared < _COMPARABLE * max(map(len, texts)):
            words = ((texts[0], False),), ((texts[1], False),)  # only the subject is the same: nearly all would be underlined
        sides = [
            [_head(part), *_body(part, own, lit.get(part.name, ()), half)] if part is not None else []
            for part, own, lit in zip((first, second), words, spans, strict=True)
        ]
        rows += [*side_by_side(sides[0], sides[1], half, "   "), Content("")]
    return rows, [0]


def _single(browser: SourceBrowser, index: int, row: Row, width: int) -> list[Content]:
    spans = flagged_spans(browser.findings(index))
    rows = [line(("  ", ""), (f"Row {index + 1:,}", "bold")), Content("")]
    for part in parts_of(row):
        rows += [_head(part), *_body(part, ((part.text[:_MAX_TEXT], False),), spans.get(part.name, ()), width), Content("")]
    return rows


def _head(part: RowPart) -> Content:
    glyph, style = role_glyph(part.role)
    return line("  ", (f"{glyph} ", style), (part.role, f"bold {style}"))


def _body(part: RowPart, words: Words, spans: Sequence[Span], width: int) -> list[Content]:
    differences = difference_styles(words)
    styles = [*differences, *((span.start, span.end, "$span-ink on $span") for span in spans)]
    styles += [(max(span.start, low), min(span.end, high), FAILURE_STYLE) for span in spans for low, high, _ in differences]
    rows = styled_rows("".join(text for text, _ in words), [one for one in styles if one[0] < one[1]], width - 5)
    rows += [row for call in part.calls for row in Content.styled(call, "$muted").wrap(max(width - 5, 1))]
    return [line("    ", row) for row in rows]


def summary(groups: Sequence[RowGroup]) -> str:
    rows = len({row for group in groups for row in group.rows})
    return f"{plural(len(groups), 'group')}, {plural(rows, 'row')}" if groups else ""
