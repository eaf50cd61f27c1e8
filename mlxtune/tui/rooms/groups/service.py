"""The Groups room's service: the groups of a session, and the decisions on their members."""

import os
from collections.abc import Sequence

from mlxtune.core.errors import DataError
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.base import Finding, Span
from mlxtune.data.groups import RowGroup, by_size, most_diverse
from mlxtune.data.review import EXCLUDED
from mlxtune.data.rows import Row, last_prompt, row_text
from mlxtune.tui.source_session import SourceSession

_COMPARED = 20  # members whose beginnings are compared


def remaining(browser: SourceBrowser, groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Return ``groups`` without rows that are left out, and without groups that have nothing left to compare."""
    left_out = {index for index, decision in browser.decisions.items() if decision.status in EXCLUDED}
    return by_size(group.without(left_out) for group in groups) if left_out else list(groups)


def current(browser: SourceBrowser, index: int) -> Row | None:
    """Return a row as reviewed, or ``None`` if it cannot be read."""
    row = browser.lazy_row(index).current_or_error
    return None if isinstance(row, DataError) else row


def diverse_rows(session: SourceSession, group: RowGroup, count: int) -> tuple[int, ...]:
    """Return the ``count`` rows of a group that differ most from each other."""
    rows = [row for row in group.rows if current(session.source, row) is not None]
    texts = [row_text(row) for index in rows if (row := current(session.source, index)) is not None]
    return tuple(rows[position] for position in most_diverse(texts, count))


def flagged_spans(findings: Sequence[Finding]) -> dict[str, list[Span]]:
    """Return the spans that findings flag, keyed by the part of the row."""
    spans: dict[str, list[Span]] = {}
    for finding in findings:
        if finding.severity != "note":
            for span in finding.spans:
                spans.setdefault(span.part, []).append(span)
    return spans


def shared_beginning(browser: SourceBrowser, group: RowGroup) -> str:
    """Return the words that the prompts of the group's first members begin with, if they differ after that."""
    rows = (current(browser, index) for index in group.rows[:_COMPARED])
    texts = [last_prompt(row) for row in rows if row is not None]
    if len(set(texts)) < 2:
        return ""
    shared = os.path.commonprefix(texts)  # noqa: RUF071, which means whole names
    return shared[: shared.rfind(" ") + 1]
