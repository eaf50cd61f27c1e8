"""Describe adapters: the library's list, one adapter, and the comparison of two."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxtune.adapters.entry import AdapterEntry, AdapterScore
from mlxtune.adapters.export.tried import ExportedCopy, FailedExport, TriedExport, exported_copies, failed_export, tried_exports
from mlxtune.adapters.library import AdapterComparison
from mlxtune.core.text import one_line, plural, size
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.blocks import (
    ActionBlock,
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Heading,
    IntervalBar,
    Mark,
    Style,
    Table,
    facts,
    figures,
    text,
)
from mlxtune.present.comparison import comparison_verdict, evaluation_comparison_table
from mlxtune.present.export import exports_table, form_label, measured_in
from mlxtune.present.labels import GLYPHS, limits_text, outcome_mark, percent, word
from mlxtune.present.verdict import caveat_text, verdict_text

EVALUATE = "adapters.evaluate"
_KINDS = {"lora": "LoRA", "dora": "DoRA"}


@dataclass(frozen=True)
class AdapterDetail:
    entry: AdapterEntry
    children: tuple[str, ...] = ()
    exports: tuple[TriedExport, ...] = ()
    copies: tuple[ExportedCopy, ...] = ()
    failed: FailedExport | None = None  # the last export, if it failed

    @classmethod
    def read(cls, entry: AdapterEntry, children: tuple[str, ...]) -> AdapterDetail:
        return cls(entry, children, tuple(tried_exports(entry)), tuple(exported_copies(entry)), failed_export(entry))


def kind(entry: AdapterEntry) -> str:
    return f"{_KINDS.get(entry.kind, '')} {entry.rank or ''}".strip()


def score_mark(entry: AdapterEntry) -> tuple[Mark, str]:
    if entry.problem:
        return "error", "unusable"
    if entry.score is None:
        return "muted", "not evaluated"
    return ("warning", "not recommended") if entry.score.caveat else (outcome_mark(entry.score.outcome), word(entry.score.outcome))


def brief(entry: AdapterEntry) -> str:
    changes = entry.score.changes[-1:] if entry.score else []
    rate = "".join(f", {metric_label(after.metric)} {percent(after.share)}" for _, after in changes)
    return f"{kind(entry)}, {score_mark(entry)[1]}{rate}"


def adapters_table(entries: Sequence[AdapterEntry]) -> Table:
    labels = ("", "adapter", "base", "kind", "size", "verdict", "rate", "rows", "metric", "tags")
    return Table("", "", tuple(Column(label, right=label in ("size", "rows")) for label in labels), tuple(map(_list_row, entries)))


def _list_row(entry: AdapterEntry) -> tuple[Cell, ...]:
    mark, outcome = score_mark(entry)
    name = Cell(GLYPHS[mark], mark), Cell(entry.name, "bold")
    if entry.problem:
        return *name, Cell(one_line(entry.problem, 90), "error"), *[Cell()] * 7
    rate, rows, metric = "", "", ""
    for before, after in entry.score.changes[-1:] if entry.score else ():
        rate, rows, metric = f"{percent(before.share)} → {percent(after.share)}", f"{after.total:,}", metric_label(after.metric)
    style: Style = "" if mark == "muted" and entry.score else mark
    values = (one_line(entry.base, 40), kind(entry), size(entry.size))
    return *name, *map(Cell, values), Cell(outcome, style), *map(Cell, (rate, rows, metric)), Cell(" ".join(entry.tags), "muted")


def adapter_document(detail: AdapterDetail) -> Document:
    entry = detail.entry
    head, folder = Heading(entry.name, kind(entry)), Facts((Fact("folder", entry.key),))
    if entry.problem:
        return head, text(_local(entry, entry.problem), "bold", "error"), folder
    known = {**adapter_facts(entry), "children": ", ".join(detail.children)}
    details = facts([(label, _local(entry, value)) for label, value in known.items()])
    return head, *_score_blocks(entry), *_export_blocks(detail), Heading("Details"), details, folder


def _score_blocks(entry: AdapterEntry) -> Iterator[Block]:
    score, (mark, outcome) = entry.score, score_mark(entry)
    if score is None:
        subject = (entry.name if "@" in entry.name else entry.run) if entry.is_from_run else f"RECIPE --adapter {entry.name}"
        yield text(outcome, "bold", mark)
        yield ActionBlock(EVALUATE, "evaluate it", f"mlxtune eval {subject}")
        return
    yield Heading("Verdict", plural(score.rows, "held-out row"))
    yield text(verdict_text(score.verdict), "bold", mark)
    if score.caveat:
        yield text(f"Not recommended: {caveat_text(score.caveat)}.", "warning")
    if score.folder is None:
        yield text("reported by its author, not verified", "warning")
    yield rates_table(score)


def rates_table(score: AdapterScore) -> Table:
    columns = (Column(), *figures(one_line(score.rival, 20), one_line(score.arm, 40)), Column(), Column())
    rows = []
    for before, after in score.changes:
        limits = Cell(limits_text(after.low, after.high), "muted")
        values = Cell(percent(before.share), "muted"), Cell(percent(after.share), "primary")
        rows.append((Cell(metric_label(after.metric)), *values, limits, Cell(bar=IntervalBar(after.low, after.share, after.high))))
    return Table("", "", columns, tuple(rows))


def _export_blocks(detail: AdapterDetail) -> Iterator[Block]:
    entry = detail.entry
    if detail.exports:
        yield exports_table(detail.exports)
        for export in detail.exports:
            yield Facts((Fact(form_label(export), _local(entry, str(export.target)), f"measured in {measured_in(export)}"),))
            yield from (text(_local(entry, command), "primary") for command in (f"mlxtune runs show {export.id}", *export.commands))
    if detail.copies:
        yield Heading("Copies", "the adapter alone")
        yield Facts(tuple(Fact(copy.program, _local(entry, str(copy.folder))) for copy in detail.copies))
    if failed := detail.failed:
        yield text(f"The last export, {form_label(failed)}, failed: {failed.error or 'its process crashed.'}", mark="error")
        yield text(f"mlxtune runs show {failed.id}", "primary")


def _local(entry: AdapterEntry, shown: str) -> str:
    return shown.replace(f"{entry.workspace.resolve()}{os.sep}", "").replace(f"{entry.workspace}{os.sep}", "")


def adapter_facts(entry: AdapterEntry) -> dict[str, str]:
    """Return an adapter's properties by their labels; empty if unknown."""
    return {
        "base": " ".join(filter(None, (entry.base, f"({entry.base_hash[:12]})" if entry.base_hash else ""))),
        "kind": _KINDS.get(entry.kind, ""),
        "rank": f"{entry.rank}, scale {entry.scale:g}",
        "targets": ", ".join(target.rsplit(".", 1)[-1] for target in entry.targets),
        "layers": str(entry.layers),
        "size": f"{entry.parameters:,} parameters, {size(entry.size)}",
        "created": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created)),
        "method": entry.method,
        "thinking": entry.thinking if entry.thinking != "off" else "",
        "run": entry.run,
        "step": f"{entry.step:,}" if entry.step else "",
        "recipe": entry.recipe_hash[:12],
        "data": entry.data_hash[:12],
        "parent": (entry.parent.run or entry.parent.folder) if entry.parent else "",
        "origin": entry.origin,
        "tags": ", ".join(entry.tags),
    }


def comparison_document(compared: AdapterComparison) -> Document:
    first, second = compared.first, compared.second
    one, two = adapter_facts(first), adapter_facts(second)
    one["weights"], two["weights"] = (digest[:12] for digest in compared.hashes)
    rows = []
    for label in one:
        values = one[label], two[label]
        style: Style = "muted" if values[0] == values[1] else "bold"
        if any(values):
            shown = (Cell(one_line(value, 48) or "–", style) for value in values)
            rows.append((Cell("" if style == "muted" else "~"), Cell(label, "muted"), *shown))
    columns = (Column(), Column(), Column(first.name), Column(second.name))
    table = Table("Adapters", "differences in bold", columns, tuple(rows))
    if compared.contrast:
        return table, text(comparison_verdict(compared.contrast), "bold"), evaluation_comparison_table(compared.contrast)
    reason = f"{compared.unevaluated} has not been evaluated in this workspace" if compared.unevaluated else compared.error
    return table, text(f"not compared: {one_line(reason)}", "muted", "muted")
