"""The tables of a report, built once and drawn by every drawer (terminal, app, Markdown, HTML)."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.core.text import duration, one_line, plural
from mlxtune.evaluation.answer_statistics import MAX_CUT, AnswerStatistics
from mlxtune.evaluation.arms import BASE, TUNED, is_tuned
from mlxtune.evaluation.compare import EvaluationComparison
from mlxtune.evaluation.render.wording import (
    comparisons_by_pair,
    fact_list,
    method,
    seed_spread,
    verdict_arms,
)
from mlxtune.evaluation.report import ArmResult, EvaluationReport, Rate
from mlxtune.evaluation.scorers.registry import FORMS, metric_label
from mlxtune.evaluation.verdict import Comparison, ScoreComparison
from mlxtune.present.blocks import Cell, Column, IntervalBar, Style, Table
from mlxtune.present.labels import change_text, failure_name, glyph_cell, outcome_cell, outcome_mark, p_value, percent, word

FAILURE_KINDS = 6  # maximum number of rows in the failures table


def report_tables(report: EvaluationReport) -> list[Table]:
    """Return every table of a report, in reading order."""
    tables = [
        arms_table(report),
        rates_table(report),
        failures_table(report),
        *comparison_tables(report),
        margins_table(report),
        answers_table(report),
        seeds_table(report),
        off_task_table(report),
        diagnostics_table(report),
    ]
    return [table for table in tables if table]


def arms_table(report: EvaluationReport) -> Table | None:
    """Return each arm's rate on the contract or, without one, on the headline metric, with the time and length of its answers."""
    rows = []
    total = report.facts["rows"]
    slowest = max((arm.answers.p95 or 0.0 for arm in report.arms), default=0.0)
    for arm in report.arms:
        if answers := arm.answers:
            rate = arm.rate(report.answer_metric)
            rows.append(
                (
                    _arm(arm),
                    *rate_cells(rate)[:2],
                    *([_latency_cell(answers, slowest)] if slowest else []),
                    *(Cell("–" if seconds is None else _seconds(seconds)) for seconds in (answers.p50, answers.p95)),
                    Cell(f"{answers.tokens / total:,.0f}"),
                    Cell(percent(answers.cut / total), "error" if answers.undecided > MAX_CUT * total else "muted"),
                    Cell(percent(answers.loops / total), "muted"),
                )
            )
    if not rows:
        return None
    labels = ("p50, s", "p95, s", "tokens", "still going", "repeating")
    columns = (
        Column(),
        Column(metric_label(report.answer_metric), right=True),
        Column(right=True),
        *([Column(priority=2)] if slowest else []),
        *(Column(label, right=True) for label in labels),
    )
    note = "seconds (unbatched) and tokens per answer; share unfinished"
    legend = (
        f"Bars: seconds per answer, from the median to the 95th percentile, on a scale to {_seconds(slowest)} s." if slowest else ""
    )
    return Table("Arms", note, columns, tuple(rows), legend)


def _latency_cell(answers: AnswerStatistics, slowest: float) -> Cell:
    """Return the range from the median to the 95th percentile of the seconds per answer, if they were measured."""
    if answers.p50 is None or answers.p95 is None:
        return Cell()
    return Cell(bar=IntervalBar(answers.p50, answers.p50, answers.p95, 0, slowest))


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:,.0f}"


def rates_table(report: EvaluationReport) -> Table:
    """Return each metric's rate in each arm, without the metrics that describe only the form of answers. The headline metric comes
    first."""
    metrics = [rate.metric for rate in report.arms[0].rates if rate.metric not in FORMS]
    return _rates_table("Rates", "share of rows that pass, 95% Wilson intervals", report, metrics)


def diagnostics_table(report: EvaluationReport) -> Table | None:
    """Return the rates of metrics that describe only the form of answers and are not part of the contract, or ``None`` without
    any."""
    metrics = [rate.metric for rate in report.arms[0].rates if rate.metric in FORMS]
    return _rates_table("Diagnostics", "the form of the answers; not part of the contract", report, metrics) if metrics else None


def _rates_table(title: str, note: str, report: EvaluationReport, metrics: Sequence[str]) -> Table:
    rows = []
    for metric in sorted(metrics, key=lambda metric: metric != report.headline_metric):
        for index, arm in enumerate(report.arms):
            rows.append((Cell(metric_label(metric) if index == 0 else "", "bold"), _arm(arm), *_rate(arm.rate(metric))))
    columns = (Column(), Column(), Column(), Column(right=True), Column(right=True), Column())
    return Table(title, note, columns, tuple(rows))


def rate_cells(rate: Rate) -> tuple[Cell, Cell, Cell]:
    """Return a rate's percentage, its interval, and how outputs fail."""
    mean = [f"mean {rate.mean:.3f}"] if rate.mean is not None else []
    failures = [f"{count} {one_line(failure_name(kind), 40)}" for kind, count in list(rate.failures.items())[:3]]
    return (
        Cell(percent(rate.share), "bold"),
        Cell(f"{100 * rate.low:.0f}–{100 * rate.high:.0f}", "muted"),
        Cell(", ".join(mean + failures), "muted"),
    )


def _rate(rate: Rate) -> tuple[Cell, ...]:
    return Cell(bar=IntervalBar(rate.low, rate.share, rate.high)), *rate_cells(rate)


def _arm(arm: ArmResult) -> Cell:
    return Cell(one_line(arm.name, 40), "primary" if is_tuned(arm.name) else "muted")


def comparison_tables(report: EvaluationReport) -> list[Table]:
    """Return one table per pair of arms, the verdict's pair first; others that are compared on a single metric share one table."""
    tables: list[Table] = []
    single: list[tuple[str, Comparison]] = []
    for name, items in comparisons_by_pair(report):
        if len(items) > 1 or not tables:
            tables.append(comparison_table(name, method(report), [(metric_label(item.metric), item) for item in items]))
        else:
            single.append((name, items[0]))
    if single:
        tables.append(comparison_table("Other arms", metric_label(single[0][1].metric), single))
    return tables


def comparison_table(title: str, note: str, items: Sequence[tuple[str, Comparison]]) -> Table:
    """Return a table of paired comparisons, each with its name: 2×2 table, change with interval, p-value, and outcome."""
    reach = max(max(abs(item.low), abs(item.high)) for _, item in items) or 1.0
    rows = []
    for name, item in items:
        paired = item.paired
        rows.append(
            (
                Cell(name),
                Cell(f"{paired.fixed:,}", "success" if paired.fixed else "muted"),
                Cell(f"{paired.broken:,}", "error" if paired.broken else "muted"),
                Cell(f"{paired.both:,}", "muted"),
                Cell(f"{paired.neither:,}", "muted"),
                Cell(bar=IntervalBar(item.low, item.change, item.high, -reach, reach)),
                Cell(change_text(item.low, item.change, item.high)),
                Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted"),
                outcome_cell(item.outcome),
            )
        )
    columns = (
        Column(),
        Column("fixed", right=True),
        Column("broken", right=True),
        Column("both", right=True, priority=1),
        Column("neither", right=True, priority=1),
        Column(priority=2),
        Column("change, points", right=True),
        Column("p", right=True),
        Column(),
    )
    return Table(title, note, columns, tuple(rows))


def evaluation_comparison_table(result: EvaluationComparison) -> Table:
    """Return the table of two evaluations that were compared with each other."""
    note = "same rows; Newcombe intervals; exact test over groups of rows, p after Holm"
    items = [(metric_label(item.metric), item) for item in result.comparisons]
    return comparison_table(f"{result.second} over {result.first}", note, items)


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
    note = "log-likelihood of the chosen minus the rejected answer, nats per token; bootstrap intervals"
    return Table("Margins", note, (Column(), Column(right=True), Column(), Column()), tuple(rows))


def answers_table(report: EvaluationReport) -> Table:
    """Return each arm's perplexity of the reference answers, its mean tokens of reasoning, and where its answers came from."""
    reasoned, answers = any(arm.thought_tokens for arm in report.arms), report.facts.get("rows", 1)
    rows = tuple(
        (
            _arm(arm),
            Cell(f"{arm.perplexity:.3f}" if arm.perplexity is not None else "–"),
            *([Cell(f"{(arm.thought_tokens or 0) / answers:,.1f}")] if reasoned else []),
            Cell("cached" if arm.cached else duration(arm.seconds), "muted"),
        )
        for arm in report.arms
    )
    thinking = (Column("thinking tokens", right=True),) if reasoned else ()
    columns = (Column(), Column("perplexity", right=True), *thinking, Column("answered in"))
    note = "perplexity of the reference answers; lower is better"
    return Table("Answers", f"{note}; mean tokens of reasoning" if reasoned else note, columns, rows)


def seeds_table(report: EvaluationReport) -> Table | None:
    """Return each seed's result, and the recipe's result over its seeds; ``None`` with a single seed."""
    seeds = report.seeds
    if seeds is None:
        return None
    rows = []
    rival = next((arm.rate(report.headline_metric).share for arm in report.arms if arm.name == seeds.rival), None)
    for seed in seeds.seeds:
        is_chosen = seed.run == seeds.recommended
        rows.append(
            (
                Cell(f"seed {seed.seed}", "primary" if is_chosen else "muted"),
                Cell(f"{seed.validation_hits:,} of {seed.validation_total:,}"),
                Cell(f"{seed.validation_loss:.3f}" if seed.validation_loss is not None else "–"),
                Cell(bar=IntervalBar(seed.low, seed.hits / seed.total, seed.high, limit=rival)),
                Cell(percent(seed.hits / seed.total), "bold"),
                Cell(f"{100 * seed.low:.0f}–{100 * seed.high:.0f}", "muted"),
                Cell(f"{one_line(seed.run, 60)}{', recommended' if is_chosen else ''}", "primary" if is_chosen else "muted"),
            )
        )
    mean = seeds.rate.mean
    rows.append(
        (
            Cell("this recipe", "bold"),
            Cell(),
            Cell(),
            Cell(bar=IntervalBar(mean.low, mean.value, mean.high, limit=rival)),
            Cell(percent(mean.value), "bold"),
            Cell(f"{100 * mean.low:.0f}–{100 * mean.high:.0f}", "muted"),
            Cell(seed_spread(seeds), "muted"),
        )
    )
    columns = (
        Column(), Column("validation", right=True, priority=1), Column("loss", right=True, priority=1), Column(),
        Column("held-out", right=True), Column(right=True), Column(),
    )  # fmt: skip
    note = (
        f"{metric_label(report.headline_metric)} of {TUNED}; intervals over rows for each seed, over rows and seeds for the recipe"
    )
    legend = f"Dashed line: {seeds.rival}, the strongest arm without training." if rival is not None else ""
    return Table("Seeds", note, columns, tuple(rows), legend)


def off_task_table(report: EvaluationReport) -> Table | None:
    """Return how off-task accuracy changed, by category, or ``None`` if there were no off-task prompts."""
    result = report.off_task
    if result is None:
        return None
    rows = []
    changes = (result.overall, *result.categories)
    reach = max([2 * result.margin, *(max(-change.low, change.high) for change in changes if change.paired.total)])
    for change in changes:
        counted = change.paired.total > 0
        style: Style = "" if change.category else "bold"
        figures = [percent(count / max(1, change.paired.total)) for count in (change.paired.first, change.paired.second)]
        limits, mark = (change.low, change.change, change.high), outcome_mark(change.outcome)
        rows.append(
            (
                glyph_cell(change.outcome),
                Cell(one_line(change.category, 40) or "all", style),
                Cell(f"{change.paired.total:,}", "muted"),
                *(Cell(figure if counted else "–", style) for figure in figures),
                Cell(bar=IntervalBar(*limits, -reach, reach, -result.margin, mark) if counted else None),
                Cell(change_text(*limits) if counted else "–", style),
                Cell(word(change.outcome) if counted else "set apart", outcome_mark(change.outcome)),
                Cell(f"{change.power:.0%}" if counted else "–", "muted"),
            )
        )
    columns = (
        Column(), Column(), Column("answers", right=True, priority=1), Column(BASE, right=True), Column(TUNED, right=True),
        Column(priority=2), Column("change, points"), Column(), Column("power", right=True, priority=1),
    )  # fmt: skip
    note = f"correct answers, with one-sided 95% limits; held: a drop of {100 * result.margin:g} points is ruled out"
    legend = f"Dashed line: the margin, a drop of {100 * result.margin:g} points. An interval to its right means held."
    return Table("Off-task prompts", note, columns, tuple(rows), legend)


def failures_table(report: EvaluationReport) -> Table | None:
    """Return the classes of failure of the verdict's arms on the headline metric, or ``None`` if no output fails."""
    arms = verdict_arms(report)
    counts = [arm.rate(report.headline_metric).failures for arm in arms]
    most = {kind: max(by_kind.get(kind, 0) for by_kind in counts) for by_kind in counts for kind in by_kind}
    kinds = sorted(most, key=lambda kind: (-most[kind], kind))
    if not kinds:
        return None
    rows = []
    for kind in kinds[:FAILURE_KINDS]:
        cells = [Cell(one_line(failure_name(kind), 60))]
        for by_kind in counts:
            count = by_kind.get(kind, 0)
            cells += [Cell(bar=IntervalBar(0, count, count, 0, most[kinds[0]])), Cell(f"{count:,}")]
        rows.append(tuple(cells))
    columns = [Column(), *(column for arm in arms for column in (Column(priority=2), Column(arm.name, right=True)))]
    more = f"; {plural(len(kinds) - FAILURE_KINDS, 'more kind')} in report.json" if len(kinds) > FAILURE_KINDS else ""
    return Table("Failures", f"first failure per row{more}", tuple(columns), tuple(rows))


def facts_table(report: EvaluationReport) -> Table:
    """Return the facts about the evaluation as names and values."""
    return key_value_table("Facts", "", fact_list(report))


def key_value_table(title: str, note: str, items: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and values without a header."""
    rows = tuple((Cell(name, "muted"), Cell(value)) for name, value in items)
    return Table(title, note, (Column(), Column()), rows)


def score_table(items: Sequence[ScoreComparison]) -> Table:
    """Return a table of a judge's scores: rows that rose, fell or stayed the same, change, p-value, and outcome."""
    rows = tuple(
        (
            Cell(item.metric),
            *(Cell(f"{count:,}") for count in (item.rose, item.fell, item.tied)),
            Cell(f"{item.change:+.2f} ({item.low:+.2f} to {item.high:+.2f})"),
            Cell(p_value(item.p if item.adjusted is None else item.adjusted), "muted"),
            outcome_cell(item.outcome),
        )
        for item in items
    )
    columns = (Column(), *(Column(label, right=True) for label in ("rose", "fell", "same", "change", "p")), Column())
    note = "sign test with Holm-adjusted p-values; bootstrap intervals over groups"
    return Table("Scales, 1 to 5", note, columns, rows)
