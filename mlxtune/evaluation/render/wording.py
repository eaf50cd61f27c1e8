"""Sentences and formatted values shared by all report renderers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mlxtune.core.text import duration, one_line, plural
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.comparability import ChangedTerms, listed
from mlxtune.evaluation.compare import EvaluationComparison
from mlxtune.evaluation.drilldown import FailedRow
from mlxtune.evaluation.evidence import NearestRow
from mlxtune.evaluation.holdout.contamination import Contamination
from mlxtune.evaluation.holdout.ledger import HoldoutHistory
from mlxtune.evaluation.json_fields import from_json
from mlxtune.evaluation.off_task.result import LEAST, OffTaskResult
from mlxtune.evaluation.promotion import Caveat, promotion_refusal
from mlxtune.evaluation.report import ArmResult, EvaluationReport
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.preference import PREFERENCE
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.seed_report import SeedReport
from mlxtune.evaluation.statistics.power import BROKEN, FLIPPED, POWER, detectable_gain, needed_rows
from mlxtune.evaluation.verdict import Comparison, CutAnswers, Verdict
from mlxtune.present.labels import change_text, p_value, percent, signed_points, word

_EXPECTED = 2  # evaluations of the same rows in a clean experiment: the base and one adapter
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
        f"large would occur with probability {p} ({test}): {word(item.outcome)}."
    )


def holdout_summary(report: EvaluationReport) -> str:
    """Describe how reliable the held-out rows are: contamination, dependence, earlier evaluations, and power."""
    facts = report.facts
    rows, groups = facts.get("rows", 0), facts.get("groups", facts.get("rows", 0))
    dependent = f"Near-duplicates count as one: {plural(groups, 'group')} of rows." if groups < rows else ""
    notes = [
        f"{plural(rows, 'held-out row')}.",
        compared_pairs_text(report),
        contamination_text(report),
        dependent,
        history_text(report.holdout),
        changed_terms_text(report),
    ]
    power = power_text(min(groups, _compared_rows(report)))
    notes += [f"{power[0].upper()}{power[1:]}."] if report.headline is None else []
    return " ".join(filter(None, notes))


def power_text(rows: int) -> str:
    """Describe the power of ``rows`` held-out rows: ``80% power to detect a gain of 10 points (17 if 5% of rows regress)``."""
    clean, rough = detectable_gain(rows), detectable_gain(rows, BROKEN)
    if clean is None:
        return "too few to detect any change"
    second = f" ({round(100 * rough)} if {100 * BROKEN:.0f}% of rows regress)" if rough is not None else ""
    return f"{100 * POWER:.0f}% power to detect a gain of {plural(round(100 * clean), 'point')}{second}"


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
    names = [metric_label(name) for name in report.facts.get("required", [])]
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
        ("evaluations", f"{report.holdout.evaluations:,} of these rows" if report.holdout else ""),
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
        ("off-task", off_task_summary(off_task) if off_task else ""),
        ("off-task test", off_task_method(off_task) if off_task else ""),
    ]
    return [(name, value) for name, value in items if value]


def _dollars(spent: float) -> str:
    return f", at most ${spent:.4f}" if spent else ""


def _short_hash(value: str) -> str:
    return f"({value[:12]})" if value else ""


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict in sentences, the first of which is the outcome."""
    body = " ".join(filter(None, verdict_sentences(verdict)))
    return f"{word(verdict.outcome).capitalize()}. {body}" if verdict.outcome else body


def verdict_sentences(verdict: Verdict) -> list[str]:
    """Return the sentences after a verdict's outcome."""
    item, contract, cut = verdict.headline, verdict.contract, verdict.cut
    grammar = {"contract": "meets the whole contract", "schema": "fits the schema"}.get(verdict.grammar)
    grammar_text = f"A grammar alone {grammar} every time." if grammar else ""
    if item is None:
        return [*_baseline_sentences(verdict), grammar_text, _cut_baseline(cut) if cut else ""]
    sentences = (
        [f"The token limit may decide: {_cut_text(cut)}. Raise {_limits(cut)} and evaluate again. At this limit:"] if cut else []
    )
    worse = contract if contract and contract.outcome == "worse" else None
    for index, one in enumerate(filter(None, (worse, item))):
        states_outcome = index > 0 or (cut is not None and one.outcome != "cannot_tell")
        sentences.append(outcome_sentence(one, arm="" if one.second == TUNED else one.second, outcome=states_outcome))
    changes = ", ".join(f"{metric_label(one.metric)} ({signed_points(one.change)} points)" for one in verdict.also_worse)
    sentences += [
        f"About {verdict.needed_rows:,} rows are needed to tell." if verdict.needed_rows else "",
        f"Worse, though: {changes}." if changes else "",
        grammar_text,
    ]
    if contract and not worse:
        paired = contract.paired
        before, after = (f"{count} of {paired.total}" for count in (paired.first, paired.second))
        sentences.append(f"The contract held for {before} answers before and {after} after.")
    return sentences


def _baseline_sentences(verdict: Verdict) -> list[str]:
    """Say what was measured before training, and what to do next."""
    if len(verdict.rates) == 1:
        return ["The base has been evaluated. Now train, then compare the adapter with it."]
    rates = ", ".join(f"{rate.arm} {percent(rate.share)}" for rate in verdict.rates)
    measured = f"Without training, {metric_label(verdict.metric)}: {rates}."
    return [f"{measured} Now train, then compare the adapter with the best of them."]


def outcome_sentence(item: Comparison, *, label: str = "", arm: str = "", outcome: bool = True) -> str:
    """Describe a comparison in points, after its outcome unless that is left out. ``arm`` names the second arm, if it is not obvious."""
    label = label or metric_label(item.metric)
    low, change, high = map(signed_points, (item.low, item.change, item.high))
    name = label[0].upper() + label[1:] + (f", {arm}" if arm else "")
    p = item.p if item.adjusted is None else item.adjusted
    disagree = item.outcome == "cannot_tell" and (item.low > 0 or item.high < 0)
    test = f", but p = {p:.3f}" if disagree else ""
    text = f"{name}: {change} points versus {item.first} (95% interval: {low} to {high}{test})."
    return f"{word(item.outcome).capitalize()}. {text}" if outcome else text


def comparison_verdict(result: EvaluationComparison) -> str:
    """Describe the comparison of two evaluations, with the number of rows needed to tell."""
    item = result.headline
    rows = None if result.grouped or item.outcome != "cannot_tell" else needed_rows(item.paired)
    more = f" About {rows:,} rows are needed to tell." if rows and rows > item.paired.total else ""
    return f"{outcome_sentence(item)}{more}"


def compared_rows_text(result: EvaluationComparison) -> str:
    """Say on how many rows two evaluations were made, and on how many the headline compares them, if those are fewer."""
    compared = result.headline.paired.total
    fewer = f"; compared on {compared:,}" if compared < result.rows else ""
    return f"{plural(result.rows, 'held-out row')}, the same for both{fewer}"


def _cut_text(cut: CutAnswers) -> str:
    limit = f"{cut.max_tokens:,} tokens" if cut.max_tokens else "the token limit"
    return f"{cut.count} of {cut.rows} answers of {cut.arm} were cut off at {limit} and might still have passed"


def _limits(cut: CutAnswers) -> str:
    return "evaluation.max_tokens or evaluation.thinking_tokens" if cut.thinking else "evaluation.max_tokens"


def _cut_baseline(cut: CutAnswers) -> str:
    return f"First, though, raise {_limits(cut)} and evaluate again: {_cut_text(cut)}."


def contamination_text(report: EvaluationReport) -> str:
    """Say whether the adapter was trained on the rows; empty if only the base was evaluated."""
    record = report.facts.get("contamination")
    if record is None:
        return ""
    found = from_json(Contamination, record)
    if found.code == "unknown":
        return f"It is unknown whether {one_line(found.adapter, 60)} was trained on them: some of its training records are missing."
    return f"None of these rows or their prompts is among the {plural(found.rows, 'row')} that the adapter was trained or validated on."


def changed_terms_text(report: EvaluationReport) -> str:
    """Say which conditions changed since an earlier evaluation of this base, or return an empty text."""
    record = report.facts.get("changed_terms")
    if record is None:
        return ""
    changed = from_json(ChangedTerms, record)
    return f"{listed(changed.terms)} changed since {changed.since}."


def history_text(history: HoldoutHistory | None) -> str:
    """Say what the earlier use of rows means for a result on them: ``Evaluated 7 times, so expect optimistic results.``"""
    if history is None:
        return ""
    count = history.evaluations
    if count <= 1:
        notes = ["Evaluated for the first time." if count else "Never evaluated."]
    else:
        judged = f" ({history.judged} in blind sessions or by a judge)" if history.judged else ""
        notes = [f"Evaluated {count} times{judged}{', so expect optimistic results' if count > _EXPECTED else ''}."]
    if history.new or history.missing:
        rows = f"{plural(history.new, 'row')} new, {history.missing} removed"
        notes.append(f"The held-out rows changed since the last evaluation: {rows}.")
    if history.exported:
        notes.append(f"{plural(history.exported, 'row')} exported for training: do not test a model on rows it was trained on.")
    if history.edited_line:
        notes.append(f"The ledger was edited at line {history.edited_line}, so its count is unreliable.")
    return " ".join(notes)


def off_task_summary(result: OffTaskResult) -> str:
    """Return an off-task result as sentences."""
    paired, overall = result.overall.paired, result.overall
    if not paired.total:
        return f"Off-task accuracy: cannot tell. The base answers fewer than {LEAST:.0%} correctly in every category."
    rates = f"{_share(paired.second, paired.total)}, compared with {_share(paired.first, paired.total)} for the base"
    change = change_text(overall.low, overall.change, overall.high)
    text = f"Off-task accuracy: {word(result.outcome)}. {rates} ({paired.total:,} answers): a change of {change} points"
    if result.outcome == "dropped":
        return f"{text}. Not recommended."
    return f"{text}, so a drop of {100 * result.margin:g} points is {'' if result.outcome == 'held' else 'not '}ruled out."


def caveat_text(caveat: Caveat | None) -> str:
    """Return a short reason not to promote an adapter that is better, or ``""``."""
    if caveat is None:
        return ""
    if caveat.reason == "contract_worse":
        return "fewer answers meet the whole contract"
    if caveat.reason == "off_task_dropped":
        return f"off-task accuracy dropped from {percent(caveat.before)} to {percent(caveat.after)}"
    return f"off-task accuracy may have dropped by {100 * caveat.margin:g} points or more"


def refusal_text(report: EvaluationReport, *, accept_unknown: bool = False) -> str:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be."""
    reason = promotion_refusal(report, accept_unknown=accept_unknown)
    if reason == "not_better":
        return verdict_text(report.verdict)
    return off_task_summary(report.off_task) if reason and report.off_task else ""


def off_task_hint(report: EvaluationReport) -> str:
    """Return a remedy if off-task accuracy is the reason not to promote the adapter, or ``""``."""
    reason = promotion_refusal(report)
    lever = "Mix in replayed answers of the base (data.replay), lower training.learning_rate, or train fewer steps"
    return {"off_task_dropped": f"{lever}.", "off_task_unknown": f"{lever}; or add --accept-unknown."}.get(reason, "")


UNMEASURED_FORGETTING = (
    "Whether the adapter forgot other tasks was not measured: it answered no off-task prompts (evaluation.regression)."
)


def _share(count: int, total: int) -> str:
    return percent(count / total)
