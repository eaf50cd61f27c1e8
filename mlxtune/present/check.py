"""A data check as a document: its verdict, its findings, statistics of the data, what it did not check, and what to do next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line, plural
from mlxtune.data.column_map import ColumnUse
from mlxtune.present.blocks import ActionBlock, Bar, Bars, Block, Cell, Column, Document, Fact, Facts, Heading, Mark, Style, Table
from mlxtune.present.blocks import text as paragraph
from mlxtune.present.labels import capital, free_facts, word
from mlxtune.present.words import WORDS, fill

if TYPE_CHECKING:  # they load numpy
    from mlxtune.data.browser import ReviewVerdict
    from mlxtune.data.check_cache import CheckOutcome
    from mlxtune.data.checks.base import Check, Finding, Severity
    from mlxtune.data.checks.fixes import FixResult
    from mlxtune.data.checks.report import CheckReport, CheckResult, CheckVerdict, Improvement, Skip

_EXAMPLES = 3  # findings per check
_MAX_TAGS = 12  # values per key

VERDICT_MARKS: dict[str, Mark] = {"blocked": "error", "look": "warning", "clean": "success"}
SEVERITY_STYLES: dict[str, Style] = {"block": "error", "warn": "warning", "note": "muted"}
_SEVERITY_TITLES: dict[Severity, str] = {"block": "Must fix", "warn": "Review"}
NAME_THE_COLUMNS = "Name the columns with --map (data.map in a recipe), or the format with --format (data.format)."


def _check(id: str) -> Check:
    from mlxtune.data.checks.registry import get_check

    return get_check(id)


def sentence(wording: str, values: Mapping[str, Any]) -> str:
    return capital(fill(wording, values))


def check_title(id: str) -> str:
    """Return what a check finds, as a plural noun phrase. Those of the contract are named like their metric in reports."""
    from mlxtune.data.checks import contract
    from mlxtune.evaluation.scorers.registry import metric_label

    if metric := contract.metric_of(id):
        return f"answers that fail “{metric_label(metric)}”"
    return _check(id).title


def finding_text(finding: Finding) -> str:
    wording = _check(finding.check).wording
    return sentence(wording if isinstance(wording, str) else wording[finding.reason], finding.values)


def verdict_text(verdict: CheckVerdict) -> str:
    code = next((name for name in WORDS.check_verdicts if getattr(verdict, name, 0)), "clean")
    return fill(WORDS.check_verdicts[code], vars(verdict))


def improvement_text(improvement: Improvement) -> str:
    key, value = improvement.value
    title = check_title(improvement.check) if improvement.check else ""
    values = {"count": improvement.count, "title": title, "key": key, "value": value, "hint": NAME_THE_COLUMNS}
    return sentence(WORDS.improvements[improvement.code], values)


def skip_text(skip: Skip) -> str:
    """Return why a group of checks did not run, as part of a sentence."""
    return fill(WORDS.skips[skip.code], {"error": skip.error}).rstrip(".")


def check_warning(last: CheckOutcome | None) -> str:
    """Return why training should wait, according to the last check of a recipe's rows, or ``""``."""
    if last is None or not last.needs_attention:
        return ""
    if last.changed == "recipe":
        return "Not checked since the recipe changed."
    if last.changed:
        return "Rows blocked training at the last check, before the review changed."
    return f"{last.flagged:,} of {plural(last.rows, 'row')} blocked."


# Documents


def check_document(report: CheckReport, fixed: FixResult | None, *, every: bool, command: str) -> Document:
    muted = [Fact(one.check, f"muted, {plural(one.count, 'finding')}", one_line(one.reason, 200), "muted") for one in report.muted]
    return (
        Heading("Data", one_line(report.path.name, 40)),
        verdict_block(report.verdict),
        Facts((*_read_facts(report), *(column_facts(report.columns) if report.columns else ()))),
        *_finding_blocks(report, every),
        Heading("Statistics", word(report.statistics.tier)),
        Facts((*free_facts(report.free), *_note_facts(report), *muted, *skip_facts(report.skipped))),
        *(_fixed_blocks(fixed) if fixed else ()),
        *_next_blocks(report, command),
    )


def statistics_document(report: CheckReport) -> Document:
    files = ", ".join(f"{one_line(file.path.name, 30)} {file.read:,}" for file in report.files)
    known = report.statistics
    prompts = Fact("prompts", f"{known.groups:,} distinct in {plural(known.rows, 'row')}", word(known.tier))
    openings = Fact("openings", f"about {known.openings:,.0f} distinct three-word openings")
    return (
        Heading("Data", one_line(report.path.name, 40)),
        Facts((*_read_facts(report), Fact("files", files), prompts, openings)),
        *_length_blocks(report),
        *tag_blocks(report.statistics.tags, _MAX_TAGS),
        *_next_blocks(report, ""),
    )


def summary_document(verdict: ReviewVerdict, checked: CheckResult) -> Document:
    from mlxtune.data.checks.report import improvement
    from mlxtune.data.checks.statistics import GOOD_PROMPTS, MIN_PROMPTS

    next_one = improvement(checked.statistics, verdict.findings, verdict.counts.to_review, stale=verdict.stale)
    missing = {name: skip for name, skip in checked.skipped.items() if name in ("contract", "mismatch")}
    # the list of findings, or the number of prompts, shows these
    is_shown = next_one.code in ("none", "fix", "add_prompts", "more_prompts")
    advice = () if is_shown else (paragraph(improvement_text(next_one), "muted"),)
    enough = checked.statistics.groups >= MIN_PROMPTS
    prompts = f"{checked.statistics.groups:,} distinct (≥ {GOOD_PROMPTS if enough else MIN_PROMPTS:,})"
    fact = Fact("prompts", prompts, "before your changes" if verdict.stale else "", "" if enough else "warning")
    facts = (fact, *free_facts(checked.free), *skip_facts(missing))
    return (verdict_block(verdict.counts), Facts(facts), *advice)


def verdict_block(verdict: CheckVerdict) -> Block:
    return paragraph(verdict_text(verdict), "bold", VERDICT_MARKS[verdict.outcome])


def skip_facts(skipped: Mapping[str, Skip]) -> list[Fact]:
    groups = grouped((skip_text(skip), group) for group, skip in skipped.items())
    return [Fact("not checked", ", ".join(names), why, "muted") for why, names in groups.items()]


def tag_blocks(tags: Mapping[str, Mapping[str, int]], most: int | None = None) -> list[Block]:
    """Return the values of each key as bars, most frequent first. Values that occur in too few rows are marked."""
    from mlxtune.data.checks.statistics import is_rare

    blocks: list[Block] = []
    for key, counts in tags.items():
        total, highest = sum(counts.values()), max(counts.values())
        rare = {value for value, count in counts.items() if is_rare(count, total, len(counts))}
        note = f"{len(rare):,} of {plural(len(counts), 'value')} rare" if rare else plural(len(counts), "value")
        bars = []
        for value, count in list(counts.items())[:most]:
            name = f"{'! ' if value in rare else ''}{one_line(value, 24)}"
            bars.append(Bar(name, f"{count:,}", 0, count / highest, style="warning" if value in rare else "primary"))
        blocks += [Heading(one_line(key, 30), note), Bars(tuple(bars))]
    return blocks


def column_facts(columns: ColumnUse) -> list[Fact]:
    mapping = ", ".join(
        f"{one_line(key, 20)} = {one_line(column, 40)}" for key, column in (columns.mapping or columns.places).items()
    )
    unused = ", ".join(one_line(name, 20) for name in columns.unused[:_MAX_TAGS]) + (" …" if columns.unused[_MAX_TAGS:] else "")
    facts = [Fact("columns", mapping)] if mapping else []
    return [*facts, Fact("unused", unused, "kept as metadata")] if unused else facts


def _read_facts(report: CheckReport) -> list[Fact]:
    formats = ", ".join(f"{count:,} {format}" for format, count in report.formats.items()) or "none"
    facts = [Fact("rows", f"{report.read:,} read = {report.kept:,} valid ({formats}) + {report.refused:,} invalid")]
    counts = {"left out": len(report.left_out), "edited": report.edited_count}  # by the review
    if any(counts.values()):
        facts.append(Fact("review", ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)))
    return facts + [Fact("file", WORDS.file_notes[note]) for file in report.files for note in file.notes]


def _finding_blocks(report: CheckReport, every: bool) -> list[Block]:
    blocks: list[Block] = []
    shown: list[Finding] = []
    for severity, title in _SEVERITY_TITLES.items():
        by_check = [(id, list(same)) for id, same in groupby(_of(report.findings, severity), key=lambda one: one.check)]
        if not by_check:
            continue
        accepted = f", {report.verdict.accepted:,} accepted" if severity == "warn" and report.verdict.accepted else ""
        rows = tuple(_check_row(id, len(findings), severity) for id, findings in by_check)
        columns = (Column(), Column("finding"), Column("rows", right=True), Column("fix"))
        blocks.append(Table(title, plural(report.rows(severity), "row") + accepted, columns, rows))
        shown += [one for _, findings in by_check for one in (findings if every else findings[:_EXAMPLES])]
    if shown:
        hidden = len(_of(report.findings, "block")) + len(_of(report.findings, "warn")) - len(shown)
        note = f"{hidden:,} more with --all" if hidden else ""
        rows = tuple(_finding_row(report, one) for one in shown)
        blocks.append(Table("Rows", note, (Column("check"), Column("place"), Column("why")), rows))
    return blocks


def _of(findings: Sequence[Finding], severity: Severity) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity]


def _check_row(id: str, count: int, severity: Severity) -> tuple[Cell, ...]:
    check = _check(id)
    fix = f"--fix: {check.fix.label}" if check.fix.safe else f"--also {id}" if check.fix.kind != "hand" else "by hand"
    return Cell(check.glyph, SEVERITY_STYLES[severity]), Cell(check_title(id)), Cell(f"{count:,}", "bold"), Cell(fix, "muted")


def _finding_row(report: CheckReport, finding: Finding) -> tuple[Cell, ...]:
    label, why = Cell(_check(finding.check).label, "muted"), finding_text(finding)
    if not finding.rows:
        return label, Cell("all rows"), Cell(why)
    location, id = report.locations[finding.rows[0]]
    place = f"{location.file.stem} {location.place}" if len(report.files) > 1 else location.place
    others = [report.locations[index][0] for index in finding.rows[1:3]]
    related = ", ".join(f"{'' if one.file == location.file else one.file.stem + ' '}{one.place}" for one in others)
    why += f" ({related})" if related else ""
    why += f" {finding.spans[0].part}: “{one_line(finding.spans[0].text, 70)}”" if finding.spans else ""
    return label, Cell(f"{place} {id[:6]}".strip(), "primary"), Cell(why)


def _note_facts(report: CheckReport) -> list[Fact]:
    facts = []
    for id, same in groupby(_of(report.findings, "note"), key=lambda one: one.check):
        notes = list(same)
        if not notes[0].rows:
            facts += [Fact(check_title(id), finding_text(finding)) for finding in notes]
        else:
            where = report.locations[notes[0].rows[0]][0].place
            facts.append(Fact(check_title(id), f"{len(notes):,}", f"{where}: {finding_text(notes[0])} --also {id}"))
    return facts


def _fixed_blocks(fixed: FixResult) -> tuple[Block, ...]:
    left_out = sum(not change.after for change in fixed.changes)
    facts = [Fact("rows", f"{len(fixed.changes) - left_out:,} changed, {left_out:,} left out")]
    if fixed.by_hand:
        places = ", ".join(f"{place.place} {finding.check}" for place, finding in fixed.by_hand[:_EXAMPLES])
        note = f"{places}{' …' if len(fixed.by_hand) > _EXAMPLES else ''}: the value is elsewhere in the row, too"
        facts.append(Fact("by hand", plural(len(fixed.by_hand), "finding"), note, "warning"))
    return Heading("Fixed", "recorded in the review; data review --undo takes it back"), Facts(tuple(facts))


def _next_blocks(report: CheckReport, command: str) -> tuple[Block, ...]:
    advice = improvement_text(report.improvement)
    return Heading("Next"), paragraph(advice), *((ActionBlock("data.fix", "", command),) if command else ())


def _length_blocks(report: CheckReport) -> tuple[Block, ...]:
    """Return a histogram of row lengths on a logarithmic scale with about a dozen bars."""
    from mlxtune.data.checks.report import length_summary

    if not report.lengths:
        return ()
    summary = length_summary(report)
    shortest, longest = summary["shortest"], summary["longest"]
    octaves = math.log2(longest / shortest) if shortest else math.log2(longest + 1)
    per_octave = next((bars for bars in (8, 4, 2, 1) if octaves * bars <= 11), 1)
    counts = Counter(math.ceil(per_octave * math.log2(max(1, length))) for length in report.lengths)
    highest = max(counts.values())
    bars = [
        Bar(f"up to {round(2 ** (number / per_octave)):,}", f"{counts[number]:,}", 0, counts[number] / highest, style="primary")
        for number in range(min(counts), max(counts) + 1)
    ]
    note = f"in {summary['unit']}: median {summary['median']:,}, 95th percentile {summary['p95']:,}, max {longest:,}"
    limit = report.max_tokens
    over = sum(length > limit for length in report.lengths) if limit else 0
    warning = (paragraph(f"{plural(over, 'row')} longer than the limit of {limit:,} tokens.", mark="warning"),) if over else ()
    return Heading("Lengths", note), Bars(tuple(bars)), *warning
