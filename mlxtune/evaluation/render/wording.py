"""Sentences and formatted values shared by all report renderers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mlxtune.core.text import duration, one_line, plural
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.drilldown import FailedRow
from mlxtune.evaluation.evidence import NearestRow
from mlxtune.evaluation.off_task.result import LEAST, OffTaskResult
from mlxtune.evaluation.report import ArmResult, EvaluationReport
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.preference import PREFERENCE
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.seed_report import SeedReport
from mlxtune.evaluation.statistics.power import FLIPPED, power_text
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present.labels import change_text, p_value, percent

_QUESTION_LENGTH = 140  # maximum characters of a training row's question
_REVIEWED = {
    "accept": "accepted by", "reject": "rejected by", "skip": "skipped by", "tie": "called a tie by", "bad": "marked bad by",
    "swap": "swapped by", "edit": "edited by", "tag": "tagged by", "note": "annotated by",
}  # fmt: skip


def verdict_arms(report: EvaluationReport) -> tuple[ArmResult, ...]:
    """Return the two arms that the verdict compares, or only the last one if there is no tuned arm."""
    item = report.headline
    return tuple(arm for arm in report.arms if arm.name in (item.first, item.second)) if item else report.arms[-1:]


def summary(report: EvaluationReport) -> str:
    """Summarize the result for readers without a background in statistics."""
    item = report.headline
    if item is None:
        metric = report.answer_metric
        counts = [f"{rate.hits:,} of {rate.total:,} ({arm.name})" for arm in report.arms for rate in [arm.rate(metric)]]
        what = "Answers that meet the whole contract" if metric == CONTRACT else f"Rows that pass “{metric_label(metric)}”"
        return f"{what} without training: {', '.join(counts)}."
    paired = item.paired
    text = (
        f"Of {plural(paired.total, 'row')}, {paired.first:,} passed “{metric_label(item.metric)}” before ({item.first}) and "
        f"{paired.second:,} after ({item.second}): {paired.fixed:,} fixed, {paired.broken:,} broken."
    )
    return f"{text} {seed_summary(report.seeds)}" if report.seeds else text


def in_words(report: EvaluationReport, item: Comparison) -> str:
    """Describe a comparison's change, test and outcome."""
    p, adjusted = p_value(item.p), p_value(item.p if item.adjusted is None else item.adjusted)
    p = p if p == adjusted else f"{p}, {adjusted} after Holm"
    test = "exact sign-flip test over groups" if report.grouped else "exact McNemar test"
    return (
        f"The rate changed by {change_text(item.low, item.change, item.high)} points. If training had no effect, a difference this "
        f"large would occur with probability {p} ({test}): {item.outcome}."
    )


def holdout_summary(report: EvaluationReport) -> str:
    """Describe how reliable the held-out rows are: contamination, dependence, earlier evaluations, and power."""
    facts = report.facts
    rows, groups = facts.get("rows", 0), facts.get("groups", facts.get("rows", 0))
    dependent = f"Near-duplicates count as one: {plural(groups, 'group')} of rows." if groups < rows else ""
    notes = [
        f"{plural(rows, 'held-out row')}.",
        compared_pairs_text(report),
        facts.get("untouched", ""),
        dependent,
        facts.get("ledger", ""),
        facts.get("moved", ""),
    ]
    power = power_text(min(groups, _compared_rows(report)))
    notes += [f"{power[0].upper()}{power[1:]}."] if report.headline is None else []
    return " ".join(filter(None, notes))


def compared_pairs_text(report: EvaluationReport) -> str:
    """Say how many pairs fit in the training window, if the verdict is about preferences and some do not."""
    pairs, rows = _compared_rows(report), report.facts.get("rows", 0)
    if pairs >= rows:
        return ""
    return f"Preferences are compared on {pairs:,} of {plural(rows, 'row')}: the other pairs do not fit in data.max_tokens."


def _compared_rows(report: EvaluationReport) -> int:
    """Return the number of rows that the verdict is about."""
    rows = report.facts.get("rows", 0)
    return next((rate.total for rate in report.arms[0].rates if rate.metric == report.headline_metric == PREFERENCE), rows)


def seed_summary(seeds: SeedReport) -> str:
    """Describe the result of the recommended adapter, and the expected result of the recipe with another seed."""
    chosen, mean = seeds.chosen, seeds.rate.mean
    text = (
        f"Seed {chosen.seed} is recommended, based on the validation rows alone. This adapter ({TUNED}): {percent(chosen.hits / chosen.total)} "
        f"({100 * chosen.low:.0f} to {100 * chosen.high:.0f}). This recipe, trained with another seed: {percent(mean.value)} "
        f"({100 * mean.low:.0f} to {100 * mean.high:.0f})"
    )
    if seeds.change is None:
        return f"{text}."
    change = seeds.change.mean
    return f"{text}, {change_text(change.low, change.value, change.high)} points over {seeds.rival}."


def seed_spread(seeds: SeedReport) -> str:
    """Describe the standard deviation between seeds, and how much of it chance explains."""
    observed, chance = (100 * value for value in (seeds.rate.spread, seeds.rate.chance))
    return f"standard deviation between seeds {observed:.1f} points; {chance:.1f} expected by chance"


def comparisons_by_pair(report: EvaluationReport) -> list[tuple[str, list[Comparison]]]:
    """Return the comparisons grouped by pair of arms, with names: the verdict's pair first, then its tuned arm's other pairs.

    Pairs of other arms have only the headline metric; ``report.json`` has the rest.
    """
    metric, subject = report.headline_metric, report.subject.name
    first = (report.headline.first, report.headline.second) if report.headline else ("", "")
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in sorted(report.comparisons, key=lambda item: item.metric != metric):
        if item.second == subject or item.metric == metric:
            pairs.setdefault((item.first, item.second), []).append(item)
    order = sorted(pairs, key=lambda pair: (pair != first, pair[1] != subject))
    return [(f"{pair[1]} over {pair[0]}", pairs[pair]) for pair in order]


def method(report: EvaluationReport) -> str:
    """Name the intervals and tests used in the comparisons."""
    if report.grouped:
        return "same rows; Newcombe intervals for the effective number of rows; exact sign-flip test over groups, p after Holm"
    return "same rows; Newcombe intervals; exact McNemar test, p after Holm"


def contract_text(report: EvaluationReport) -> str:
    """List the required metrics in a sentence, or say that there are none."""
    if report.answer_metric != CONTRACT:
        more = f" Perplexity of the references: {figures}." if (figures := perplexities(report.arms)) else ""
        if report.headline_metric == PREFERENCE:
            more += " The verdict is about how often an arm finds the chosen answer of a pair more likely than the rejected one."
        return f"The recipe has no contract, so answers are compared only with their references.{more}"
    names = [metric_label(name) for name in report.facts.get("asks", [])]
    return f"The whole contract: {', '.join(names)}." if names else ""


def report_date(report: EvaluationReport) -> str:
    """Return the report's date: ``November 24, 2026``."""
    try:
        day = time.strptime(report.facts.get("made", "")[:10], "%Y-%m-%d")
    except ValueError:
        return ""
    return f"{time.strftime('%B', day)} {day.tm_mday}, {day.tm_year}"


def shown_note(shown: int, failed: int, arm: str) -> str:
    """Describe how many of the rows that fail in ``arm`` are shown, and where to find the others."""
    if shown == failed:
        return f"all {failed} rows that fail in {arm}" if failed > 1 else f"the only row that fails in {arm}"
    return f"{shown} of {failed:,}, broken ones first; the others are in outputs.jsonl"


def other_answer(report: EvaluationReport, failure: FailedRow) -> tuple[str, str] | None:
    """Return the name and text of the answer to show next to a failed one: the one that passed before, or the reference."""
    if failure.before and (failure.broken or failure.row.reference is None):
        return verdict_arms(report)[0].name, failure.before.output
    return ("reference", failure.row.reference) if failure.row.reference is not None else None


def off_task_method(result: OffTaskResult) -> str:
    """Describe the test of off-task answers, and the prompts that it does not count."""
    conditions = ", with and without the system prompt" if any(cell.with_system for cell in result.cells) else ""
    method = f"Tango's score interval{conditions}; power if {FLIPPED:.0%} of answers change"
    names = [
        f"{one_line(cell.category, 40) or 'prompts'} {'with' if cell.with_system else 'without'} system prompt"
        for cell in result.set_apart
    ]
    return f"{method}; not counted, because the base is below {LEAST:.0%}: {', '.join(names)}" if names else method


def nearest_row_text(row: NearestRow) -> str:
    """Describe a training row that is similar to a failed row: similarity, location, reviews and question."""
    reviews = [
        f"{_REVIEWED.get(by.action, by.action)} {by.who} on {time.strftime('%Y-%m-%d', time.localtime(by.t))}" for by in row.reviews
    ]
    question = " ".join(row.question.split())
    question = question if len(question) <= _QUESTION_LENGTH else f"{question[: _QUESTION_LENGTH - 1]}…"
    reviewed = ", ".join(reviews) or "not reviewed"
    return f"{100 * row.similarity:.0f}% similar: {row.location}, {reviewed}. “{question}”"


def perplexities(arms: Sequence[ArmResult]) -> str:
    """Return each arm's perplexity of the reference answers: ``base 4.72, tuned 4.50``; empty if there are none."""
    return ", ".join(f"{arm.name} {arm.perplexity:.2f}" for arm in arms if arm.perplexity is not None)


def fact_list(report: EvaluationReport) -> list[tuple[str, str]]:
    """Return the facts about the evaluation as names and values."""
    facts, decoding = report.facts, report.facts.get("decoding")
    base = [facts.get("base", ""), _short_hash(facts.get("base_fingerprint", ""))]
    off_task, endpoints = report.off_task, facts.get("endpoints", {}).items()
    items = [
        ("base", " ".join(filter(None, base))),
        ("run", facts.get("run", "")),
        ("adapter", facts.get("adapter", "")),
        ("step", f"{facts['adapter_step']:,}" if "adapter_step" in facts else ""),
        ("source", facts.get("source", "")),
        ("held-out rows", plural(facts.get("rows", 0), "row")),
        ("evaluations", f"{facts['looks']:,} of these rows" if "looks" in facts else ""),
        ("schema", _short_hash(facts.get("schema", ""))),
        ("decoding", f"{decoding['kind']}, at most {decoding['max_tokens']} tokens" if decoding else ""),
        ("thinking", f"{facts['thinking']}; at most {facts['thinking_tokens']:,} tokens" if "thinking" in facts else ""),
        ("date", f"{facts['date']} in the prompts" if facts.get("date") else ""),
        ("compute", facts.get("compute", "")),
        *(
            (arm, f"{one_line(item['model'], 60)} at {one_line(item['url'], 80)}{_dollars(item['spent'])}")
            for arm, item in endpoints
        ),
        ("answers", "; ".join(f"{arm.name} {'cached' if arm.cached else duration(arm.seconds)}" for arm in report.arms)),
        ("perplexity", f"{figures} (reference answers)" if (figures := perplexities(report.arms)) else ""),
        ("off-task", off_task.summary if off_task else ""),
        ("off-task test", off_task_method(off_task) if off_task else ""),
    ]
    return [(name, value) for name, value in items if value]


def _dollars(spent: float) -> str:
    return f", at most ${spent:.4f}" if spent else ""


def _short_hash(value: str) -> str:
    return f"({value[:12]})" if value else ""
