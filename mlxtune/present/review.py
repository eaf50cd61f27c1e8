"""The review of a source as a document: its counts, the agreement of annotators, and rows with their decisions."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.core.text import one_line, plural
from mlxtune.data.review import STATUSES, Decision, Status
from mlxtune.data.rows import last_prompt, row_tags
from mlxtune.present.blocks import Cell, Column, Document, Fact, Facts, Heading, Style, Table

if TYPE_CHECKING:  # they load numpy
    from mlxtune.data.browser import SourceBrowser
    from mlxtune.evaluation.statistics.agreement import AnnotatorAgreement

STATUS_GLYPHS: dict[Status, tuple[str, Style]] = {
    "pending": ("·", "faint"), "accepted": ("✓", "success"), "rejected": ("✗", "error"), "skipped": ("○", "muted"),
    "tied": ("=", "muted"), "bad": ("✗", "error"),
}  # fmt: skip
_SHOWN = 5  # decisions about rows that the source does not have


@dataclass(frozen=True)
class ReviewCounts:
    rows: int
    statuses: dict[Status, int]
    edited: int
    disputed: int  # rows that annotators decided differently
    agreement: list[AnnotatorAgreement]
    orphans: list[Decision]  # about rows that the source does not have

    @classmethod
    def of(cls, browser: SourceBrowser) -> ReviewCounts:
        from mlxtune.evaluation.statistics.agreement import agreements

        decisions, total = {index: one for index, one in browser.decisions.items() if browser.is_row(index)}, len(browser.rows)
        counts = Counter(browser.decision(index).status for index in decisions)
        counts["pending"] += total - len(decisions)
        return cls(
            total,
            {status: counts[status] for status in STATUSES},
            sum(decision.record is not None for decision in decisions.values()),
            sum(decision.is_disputed for decision in decisions.values()),
            agreements(decisions.values()),
            browser.state.orphans(map(browser.key, {*browser.rows, *browser.decisions})),  # a fix leaves invalid rows out
        )


def decision_glyph(decision: Decision) -> tuple[str, Style]:
    """Return the glyph of a decision and its style. An edited row without another decision shows the edit."""
    edited = decision.record is not None and decision.status == "pending"
    return ("~", "primary") if edited else STATUS_GLYPHS[decision.status]


def agreement_fact(found: AnnotatorAgreement) -> Fact:
    label = " and ".join(one_line(name, 20) for name in found.names)
    if found.kappa is None:
        return Fact(label, "κ unknown", f"{found.same:,} of {plural(found.rows, 'shared row')} the same")
    value = f"κ {found.kappa.value:.2f} ({found.kappa.low:.2f} to {found.kappa.high:.2f})"
    return Fact(label, value, f"{found.same:,} of {plural(found.rows, 'row')} the same")


def review_document(browser: SourceBrowser, counts: ReviewCounts, rows: Sequence[int]) -> Document:
    by = f" by {one_line(browser.annotator, 20)}" if browser.annotator else ""
    summary = ", ".join(f"{count:,} {status}" for status, count in counts.statuses.items() if count)
    path = shlex.quote(os.path.relpath(browser.path))
    rows_fact = Fact("rows", f"{summary}; {counts.edited:,} edited" if counts.edited else summary)
    facts = [rows_fact, *map(agreement_fact, counts.agreement)]
    if counts.disputed:
        facts.append(Fact("disputed", f"{counts.disputed:,}", f"mlxtune data review {path} --filter status:disputed", "warning"))
    if browser.bad_count:
        facts.append(Fact("invalid", f"{browser.bad_count:,}", f"mlxtune data check {path}", "warning"))
    if counts.orphans:
        names = ", ".join(f"{item.row[:12]} {item.status}" for item in counts.orphans[:_SHOWN])
        why = "invalid rows, whose columns --map names?" if browser.bad_count else "the rows have changed since"
        more = " …" if len(counts.orphans) > _SHOWN else ""
        facts.append(Fact("orphaned", plural(len(counts.orphans), "decision"), f"{names}{more}: {why}", "warning"))
    columns = (Column(), Column("row", right=True), Column("id"), Column("status"), Column("tags"), Column("prompt"))
    table = Table("", "", columns, tuple(_row_cells(browser, index) for index in rows))
    heading = Heading(browser.path.name, f"{browser.decided_count:,} of {counts.rows:,} decided{by}")
    return (heading, Facts(tuple(facts)), *((table,) if rows else ()))


def _row_cells(browser: SourceBrowser, index: int) -> tuple[Cell, ...]:
    row, decision = browser.lazy_row(index), browser.decision(index)
    return (
        Cell(*decision_glyph(decision)), Cell(f"{row.row.location.number:,}"), Cell(row.row.id, "muted"), Cell(decision.status, "muted"),
        Cell(" ".join(row_tags(row.current))), Cell(one_line(last_prompt(row.current), 80)),
    )  # fmt: skip
