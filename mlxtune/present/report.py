"""Describe a report as a document, and write it in all its forms."""

import time
from collections.abc import Sequence
from pathlib import Path

import mlxtune
from mlxtune.core.files import write_text
from mlxtune.core.sequences import grouped
from mlxtune.core.text import duration, one_line, plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation import signature
from mlxtune.evaluation.answers import MAX_CUT
from mlxtune.evaluation.arms import BASE, OPTIMIZED, TUNED, is_free, is_tuned
from mlxtune.evaluation.drilldown import FailureClass, ScoredRow, failed_rows, load_failure_classes
from mlxtune.evaluation.evidence import OPTIMIZED_PROMPT, NearestRow
from mlxtune.evaluation.highlight import Span
from mlxtune.evaluation.judge import judge_report
from mlxtune.evaluation.judge.judge_report import JudgeReport
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt
from mlxtune.evaluation.report import PAGES, ArmResult, EvaluationReport, OptimizerFacts, Rate, StrongestFacts, token_limit
from mlxtune.evaluation.scorers.registry import FORMS, metric_label
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present import html, markdown
from mlxtune.present.blocks import (
    ActionBlock,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    FailureSample,
    Heading,
    IntervalBar,
    Quote,
    Square,
    Style,
    Table,
    facts,
    figures,
)
from mlxtune.present.comparison import comparison_table
from mlxtune.present.judge import judge_document
from mlxtune.present.labels import change_text, failure_name, glyph_cell, limits_text, outcome_mark, p_value, percent, word
from mlxtune.present.verdict import report_facts, verdict
from mlxtune.present.words import WORDS

Failures = Sequence[tuple[ScoredRow, Span | None]]  # failed rows, with the part of the answer to highlight
FAILURE_KINDS = 6  # maximum number of classes in the failures table
SHOWN = 6  # maximum number of failed rows on a page
_QUESTION_LENGTH = 140  # maximum characters of a training row's question


def report_document(
    report: EvaluationReport,
    next_step: Document = (),
    failures: Failures = (),
    classes: Sequence[FailureClass] = (),
    judges: Sequence[JudgeReport] = (),
) -> Document:
    """Describe a report, what to do next, the first of its ``failures`` and of their ``classes``, and what ``judges`` found."""
    arms, rates, *tables = report_tables(report)
    square: list[Block] = []
    if item := report.headline:
        counts = (item.paired.both, item.paired.broken, item.paired.fixed, item.paired.neither)
        square = [Square("Row by row", metric_label(item.metric), item.first, item.second, *counts)]
    return (
        verdict(report.verdict),
        *next_step,
        report_facts(report),
        arms,
        rates,
        *square,
        *([classes_table(classes, report.subject.name)] if classes else []),
        *tables,
        *(block for judge in judges for block in judge_document(judge)),
        *_samples(report, failures),
        Heading("Facts"),
        evaluation_facts(report),
        ActionBlock("", "recomputes every number here from the outputs stored next to it", f"mlxtune verify {reports.FILE}"),
    )


def report_tables(report: EvaluationReport) -> list[Table]:
    """Return every table of a report, in reading order: the arms, their rates, and the others."""
    metrics = [rate.metric for rate in report.arms[0].rates]
    forms = [metric for metric in metrics if metric in FORMS]  # which are not part of the contract
    tables = [
        arms_table(report),
        rates_table("Rates", "share of rows that pass, 95% Wilson intervals", report, [one for one in metrics if one not in FORMS]),
        *comparison_tables(report),
        margins_table(report),
        answers_table(report),
        cost_table(report),
        seeds_table(report),
        off_task_table(report),
        rates_table("Diagnostics", "the form of the answers; not part of the contract", report, forms) if forms else None,
    ]
    return [table for table in tables if table]


def publish(report: EvaluationReport, folder: Path) -> bool:
    """Write ``report.md``, ``report.html`` and finally ``report.json``, which holds the hashes of both, to ``folder``.

    Removes a signature of other content, and returns whether there was one. Raises ``InputError`` if the stored answers are
    missing, and ``MachineError`` if the disk is full.
    """
    file, signed = folder / reports.FILE, folder / signature.FILE
    before = file.read_bytes() if signed.is_file() else b""
    for name, text in render_pages(report, folder).items():
        write_text(folder / name, text)
    reports.save(report, folder)
    if is_outdated := signed.is_file() and file.read_bytes() != before:
        signed.unlink()
    return is_outdated


def render_pages(report: EvaluationReport, folder: Path) -> dict[str, str]:
    """Return the text of each page of a report. Raises ``InputError`` if the stored answers are missing."""
    document = report_document(
        report,
        failures=failed_rows(folder, report),
        classes=load_failure_classes(folder, report),
        judges=judge_report.load_all(folder),
    )
    name, base = report.facts.get("name", ""), report.facts.get("base", "")
    about = " · ".join(filter(None, [name, base, _date(report.facts.get("made", ""))]))
    title = f"{name or 'evaluation'}: {word(report.outcome) if report.outcome else 'base'}"
    return dict(zip(PAGES, (markdown.render(document), html.render(document, title, about)), strict=True))


def _date(made: str) -> str:
    """Return a date as ``November 24, 2026``."""
    try:
        day = time.strptime(made[:10], "%Y-%m-%d")
    except ValueError:
        return ""
    return f"{time.strftime('%B', day)} {day.tm_mday}, {day.tm_year}"


def _samples(report: EvaluationReport, failures: Failures) -> list[Block]:
    if not failures:
        return []
    item = report.headline
    style: Style = "primary" if item else ""
    blocks: list[Block] = [Heading("Failed rows", f"{min(SHOWN, len(failures))} of {len(failures):,}, broken ones first")]
    subject = report.subject.name
    for failure, span in failures[:SHOWN]:
        row, score, is_broken = failure.row, failure.scores[subject], item is not None and failure.has_passed(item.first)
        answers = [Quote(subject, failure.answers[subject].output, span, style)]
        if item and item.first in failure.answers and (is_broken or row.reference is None):
            answers.append(Quote(item.first, failure.answers[item.first].output))
        elif row.reference is not None:
            answers.append(Quote("reference", row.reference))
        title = f"{row.location.place.capitalize().replace(',', '')}{', passed before' if is_broken else ''}"
        notes = tuple(map(nearest_row_text, failure.nearest))
        blocks.append(FailureSample(title, failure_name(score.kind), score.detail, row.question, tuple(answers), notes))
    return blocks


def nearest_row_text(row: NearestRow) -> str:
    days = [time.strftime("%Y-%m-%d", time.localtime(by.t)) for by in row.reviews]
    reviews = [f"{WORDS.reviews.get(by.action, by.action)} {by.who} on {day}" for by, day in zip(row.reviews, days, strict=True)]
    question = one_line(row.question, _QUESTION_LENGTH)
    return f"{100 * row.similarity:.0f}% similar: {row.location}, {', '.join(reviews) or 'not reviewed'}. “{question}”"


def evaluation_facts(report: EvaluationReport) -> Facts:
    known, decoding = report.facts, report.facts.get("decoding")
    limits = {token_limit(known, arm.name) for arm in report.arms}
    wider = f", {max(limits)} with a grammar" if len(limits) > 1 else ""
    continued = "".join(f"; cut-off answers of {arm} up to {tokens}" for arm, tokens in known.get("continued", {}).items())
    items = [
        ("base", f"{known.get('base', '')} {_short_hash(known.get('base_fingerprint', ''))}".strip()),
        ("run", known.get("run", "")),
        ("adapter", known.get("adapter", "")),
        ("step", f"{known['adapter_step']:,}" if "adapter_step" in known else ""),
        ("source", known.get("source", "")),
        ("schema", _short_hash(known.get("schema", ""))),
        ("decoding", f"{decoding['kind']}, at most {decoding['max_tokens']} tokens{wider}{continued}" if decoding else ""),
        ("thinking", f"{word(known['thinking'])}; at most {known['thinking_tokens']:,} tokens" if "thinking" in known else ""),
        ("date", f"{known['date']} in the prompts" if known.get("date") else ""),
        ("compute", known.get("compute", "")),
        *(
            (arm, f"{one_line(item['model'], 60)} at {one_line(item['url'], 80)}{_dollars(item['spent'])}")
            for arm, item in known.get("endpoints", {}).items()
        ),
        (OPTIMIZED, _optimizer(known["optimizer"]) if "optimizer" in known else ""),
        ("strongest", _strongest(known["strongest"]) if "strongest" in known else ""),
        ("left out", ", ".join(f"{arm}: {word(code)}" for arm, code in known.get("left_out", {}).items())),
        ("made with", f"mlxtune {mlxtune.__version__}"),
    ]
    return facts(items)


def _optimizer(item: OptimizerFacts) -> str:
    counts = f"{plural(item['calls'], 'answer')} and {plural(item['reflections'], 'proposal')} of {one_line(item['model'], 60)}"
    took = f"{item['tokens']:,} tokens in {duration(item['seconds'])}{_dollars(item['spent'])}"
    return f"{counts}, {took}; validation score {item['start']:.2f} to {item['score']:.2f}; prompt in {OPTIMIZED_PROMPT}"


def _strongest(found: StrongestFacts) -> str:
    hits = ", ".join(f"{arm} {count:,}" for arm, count in found["hits"].items())
    return f"{found['arm']} on {plural(found['rows'], 'validation row')}: {hits}"


def _dollars(spent: float) -> str:
    return f", at most ${spent:.4f}" if spent else ""


def _short_hash(value: str) -> str:
    return f"({value[:12]})" if value else ""


def arms_table(report: EvaluationReport) -> Table:
    total, slowest = report.facts["rows"], max(arm.answers.p95 or 0.0 for arm in report.arms)
    rows = []
    for arm in report.arms:
        answers = arm.answers
        bar = None
        if answers.p50 is not None and answers.p95 is not None:
            bar = IntervalBar(answers.p50, answers.p50, answers.p95, 0, slowest)
        rows.append((
            _arm(arm), *rate_cells(arm.rate(report.answer_metric))[:2], *([Cell(bar=bar)] if slowest else []),
            *(Cell("–" if seconds is None else _seconds(seconds)) for seconds in (answers.p50, answers.p95)),
            Cell(f"{answers.tokens / total:,.0f}"),
            Cell(percent(answers.cut / total), "error" if answers.undecided > MAX_CUT * total else "muted"),
            Cell(percent(answers.loops / total), "muted"),
        ))  # fmt: skip
    columns = (
        Column(), Column(metric_label(report.answer_metric), right=True), Column(right=True),
        *([Column(priority=2)] if slowest else []), *figures("p50, s", "p95, s", "tokens", "still going", "repeating"),
    )  # fmt: skip
    note = "seconds (unbatched) and tokens per answer; share unfinished"
    legend = f"Bars: seconds per answer, from the median to the 95th percentile, on a scale to {_seconds(slowest)} s."
    return Table("Arms", note, columns, tuple(rows), legend if slowest else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:,.0f}"


def rates_table(title: str, note: str, report: EvaluationReport, metrics: Sequence[str]) -> Table:
    """Return each metric's rate in each arm. The headline metric comes first."""
    rows = []
    for metric in sorted(metrics, key=lambda metric: metric != report.headline_metric):
        for index, arm in enumerate(report.arms):
            rate, label = arm.rate(metric), Cell(metric_label(metric) if index == 0 else "", "bold")
            rows.append((label, _arm(arm), Cell(bar=IntervalBar(rate.low, rate.share, rate.high)), *rate_cells(rate)))
    columns = (Column(), Column(), Column(), Column(right=True), Column(right=True), Column())
    return Table(title, note, columns, tuple(rows))


def rate_cells(rate: Rate) -> tuple[Cell, Cell, Cell]:
    """Return a rate's percentage, its interval, and how outputs fail."""
    mean = [f"mean {rate.mean:.3f}"] if rate.mean is not None else []
    failures = [f"{count} {one_line(failure_name(kind), 40)}" for kind, count in list(rate.failures.items())[:3]]
    return (
        Cell(percent(rate.share), "bold"),
        Cell(limits_text(rate.low, rate.high), "muted"),
        Cell(", ".join(mean + failures), "muted"),
    )


def _arm(arm: ArmResult) -> Cell:
    return Cell(one_line(arm.name, 40), "primary" if is_tuned(arm.name) else "muted")


def comparison_tables(report: EvaluationReport) -> list[Table]:
    """Return one table per pair of arms, the verdict's pair first; others that are compared on a single metric share one table."""
    method = "Newcombe intervals; exact McNemar test"
    if report.grouped:
        method = "Newcombe intervals for the effective number of rows; exact sign-flip test over groups"
    tables: list[Table] = []
    single: list[tuple[str, Comparison]] = []
    for name, items in _comparisons_by_pair(report):
        if len(items) > 1 or not tables:
            labeled = [(metric_label(item.metric), item) for item in items]
            baselines = sum(not is_tuned(arm.name) for arm in report.arms)
            note = f"same rows; {method}, p after Holm"
            if not tables and report.headline and baselines > 1:
                note += f"; {labeled[0][0]}: over the best of {baselines} baselines"
            tables.append(comparison_table(name, note, labeled))
        else:
            single.append((name, items[0]))
    if single:
        tables.append(comparison_table("Other arms", metric_label(single[0][1].metric), single))
    return tables


def _comparisons_by_pair(report: EvaluationReport) -> list[tuple[str, list[Comparison]]]:
    """Return the comparisons grouped by pair of arms, with names: the verdict's pair first, then its tuned arm's other pairs.

    Pairs of other arms have only the headline metric; ``report.json`` has the rest.
    """
    metric, subject = report.headline_metric, report.subject.name
    first = (report.headline.first, report.headline.second) if report.headline else ("", "")
    shown = (item for item in report.comparisons if item.second == subject or item.metric == metric)
    pairs = grouped(((item.first, item.second), item) for item in sorted(shown, key=lambda item: item.metric != metric))
    order = sorted(pairs, key=lambda pair: (pair != first, pair[1] != subject))
    return [(f"{pair[1]} over {pair[0]}", pairs[pair]) for pair in order]


def margins_table(report: EvaluationReport) -> Table | None:
    """Return the margins of preference pairs per arm and between arms, or ``None`` if the rows are not pairs."""
    rows = [
        (_arm(arm), Cell(f"{mean.value:+.3f}"), Cell(f"{mean.low:+.3f} to {mean.high:+.3f}", "muted"), Cell())
        for arm in report.arms
        if (mean := arm.margin)
    ]
    if not rows:
        return None
    for item in report.margins:
        counts = f"{item.rose} rose, {item.fell} fell, sign test p {p_value(item.p)}"
        interval = Cell(f"{item.low:+.3f} to {item.high:+.3f}", "muted")
        rows.append((Cell(f"{item.second} over {item.first}"), Cell(f"{item.change:+.3f}"), interval, Cell(counts, "muted")))
    note = "log-likelihood of the chosen minus the rejected answer, nats per token; t intervals"
    return Table("Margins", note, (Column(), Column(right=True), Column(), Column()), tuple(rows))


def answers_table(report: EvaluationReport) -> Table:
    reasoned, answers = any(arm.thought_tokens for arm in report.arms), report.facts.get("rows", 1)
    rows = []
    for arm in report.arms:
        perplexity = Cell("–" if arm.perplexity is None else f"{arm.perplexity:.3f}")
        thoughts = [Cell(f"{(arm.thought_tokens or 0) / answers:,.1f}")] if reasoned else []
        took = "–" if is_free(arm.name) else "cached" if arm.cached else duration(arm.seconds)
        rows.append((_arm(arm), perplexity, *thoughts, Cell(took, "muted")))
    thinking = (Column("thinking tokens", right=True),) if reasoned else ()
    columns = (Column(), Column("perplexity", right=True), *thinking, Column("answered in"))
    note = "perplexity of the reference answers; lower is better"
    return Table("Answers", f"{note}; mean tokens of reasoning" if reasoned else note, columns, tuple(rows))


def cost_table(report: EvaluationReport) -> Table:
    costs, answers = report.facts.get("costs", {}), report.facts["rows"]
    rows = []
    for arm in report.arms:
        made = costs.get(TUNED if is_tuned(arm.name) else arm.name)
        generated = arm.answers.tokens + (arm.thought_tokens or 0)
        rows.append((
            _arm(arm), Cell(f"{made['tokens']:,}" if made else "–"), Cell(duration(made["seconds"]) if made else "–"),
            Cell("–" if arm.prompt_tokens is None else f"{arm.prompt_tokens / answers:,.0f}"),
            Cell(f"{generated / answers:,.0f}" if generated else "–"),
            Cell("–" if arm.answers.p50 is None else _seconds(arm.answers.p50)),
        ))  # fmt: skip
    note = "tokens and time to make the arm once; tokens and seconds of each answer"
    return Table("Cost", note, (Column(), *figures("tokens", "time", "prompt", "answer", "p50, s")), tuple(rows))


def seeds_table(report: EvaluationReport) -> Table | None:
    """Return each seed's result, and the recipe's result over its seeds; ``None`` with a single seed."""
    seeds = report.seeds
    if seeds is None:
        return None
    rows = []
    rival = next(arm.rate(report.headline_metric).share for arm in report.arms if arm.name == seeds.change.rival)
    for seed in seeds.seeds:
        is_chosen = seed.run == seeds.recommended
        rows.append((
            Cell(f"seed {seed.seed}", "primary" if is_chosen else "muted"),
            Cell(f"{seed.validation_hits:,} of {seed.validation_total:,}"),
            Cell(f"{seed.validation_loss:.3f}" if seed.validation_loss is not None else "–"),
            Cell(bar=IntervalBar(seed.low, seed.hits / seed.total, seed.high, limit=rival)),
            Cell(percent(seed.hits / seed.total), "bold"), Cell(limits_text(seed.low, seed.high), "muted"),
            Cell(f"{one_line(seed.run, 60)}{', recommended' if is_chosen else ''}", "primary" if is_chosen else "muted"),
        ))  # fmt: skip
    mean = seeds.rate.mean
    chance = f"{100 * seeds.rate.chance:.1f} expected by chance"
    spread = f"standard deviation between seeds {100 * seeds.rate.spread:.1f} points; {chance}"
    rows.append((
        Cell("this recipe", "bold"), Cell(), Cell(), Cell(bar=IntervalBar(mean.low, mean.value, mean.high, limit=rival)),
        Cell(percent(mean.value), "bold"), Cell(limits_text(mean.low, mean.high), "muted"), Cell(spread, "muted"),
    ))  # fmt: skip
    columns = (Column(), *figures("validation", "loss", priority=1), Column(), *figures("held-out", ""), Column())
    metric = metric_label(report.headline_metric)
    note = f"{metric} of {TUNED}; intervals over rows for each seed, over rows and seeds for the recipe"
    legend = f"Dashed line: {seeds.change.rival}, the strongest arm without training."
    return Table("Seeds", note, columns, tuple(rows), legend)


def expected_answer(prompt: OffTaskPrompt) -> str:
    number = "" if prompt.number is None else f"the number {prompt.number:g}"
    rejected = f"not {', '.join(prompt.reject)}" if prompt.reject else ""
    return "; ".join(filter(None, (", ".join(prompt.accept), rejected, number, prompt.pattern)))


def off_task_table(report: EvaluationReport) -> Table | None:
    """Return how off-task accuracy changed, by category, or ``None`` if there were no off-task prompts."""
    result = report.off_task
    if result is None:
        return None
    rows = []
    changes = (result.overall, *result.categories)
    reach = max([2 * result.margin, *(max(-change.low, change.high) for change in changes if change.paired.total)])
    for change in changes:
        style: Style = "" if change.category else "bold"
        rates = [percent(count / change.paired.total) for count in (change.paired.first, change.paired.second)]
        limits, mark = (change.low, change.change, change.high), outcome_mark(change.outcome)
        rows.append((
            glyph_cell(change.outcome), Cell(one_line(change.category, 40) or "all", style),
            Cell(f"{change.paired.total:,}", "muted"), *(Cell(figure, style) for figure in rates),
            Cell(bar=IntervalBar(*limits, -reach, reach, -result.margin, mark)), Cell(change_text(*limits), style),
            Cell(word(change.outcome), outcome_mark(change.outcome)), Cell(f"{change.power:.0%}", "muted"),
        ))  # fmt: skip
    counts = *figures("answers", priority=1), *figures(BASE, TUNED)
    columns = (Column(), Column(), *counts, Column(priority=2), Column("change, points"), Column(), *figures("power", priority=1))
    note = f"correct answers; Tango's one-sided 95% limits; held: a drop of {100 * result.margin:g} points is ruled out"
    legend = f"Dashed line: the margin, a drop of {100 * result.margin:g} points. An interval to its right means held."
    return Table("Off-task prompts", note, columns, tuple(rows), legend)


def classes_table(classes: Sequence[FailureClass], arm: str) -> Table:
    rows = []
    for one in classes[:FAILURE_KINDS]:
        nearest = next((f"{row.location.place}: {row.question}" for row in one.nearest), "–")
        remedy, evidence = Cell(WORDS.remedies[one.remedy]), Cell(f"{one.evidence:,}", "muted")
        rows.append(
            (Cell(f"{len(one.rows):,}"), Cell(failure_class_text(one)), remedy, evidence, Cell(one_line(nearest, 40), "muted"))
        )
    columns = (
        Column("rows", right=True), Column("what is wrong"), Column("what would help"), Column("for", right=True, priority=1),
        Column("nearest training row", priority=2),
    )  # fmt: skip
    return Table("Failures", f"of {one_line(arm, 40)}, by what is wrong", columns, tuple(rows))


def failure_class_text(one: FailureClass) -> str:
    """Return what is wrong with the rows of a class: ``label /category: billing, not account``."""
    kind = one_line(failure_name(one.kind), 40)
    what = kind if one.type in ("cut", "format", "answer") else f"{one.type} {kind}" if kind.startswith("/") else kind
    return f"{what}: {one_line(one.given, 24)}, not {one_line(one.expected, 24)}" if one.expected else what
