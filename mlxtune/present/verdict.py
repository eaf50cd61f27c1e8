"""Describe what a report concludes: its verdict, what limits it, and what to do next."""

from mlxtune.core.json_fields import from_json
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.arms import TUNED, is_tuned
from mlxtune.evaluation.history import ChangedTerms, listed
from mlxtune.evaluation.holdout.contamination import Contamination
from mlxtune.evaluation.holdout.ledger import HoldoutHistory
from mlxtune.evaluation.off_task.prompts import OffTaskResult
from mlxtune.evaluation.report import MIN_GROUPS, Caveat, EvaluationReport, promotion_refusal
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, PREFERENCE
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.verdict import Comparison, CutAnswers, Verdict
from mlxtune.present.blocks import Fact, Facts, Mark, Style, Text, text
from mlxtune.present.labels import (
    FREE_ANSWERS,
    capital,
    change_text,
    confidence,
    detectable_gain_fact,
    level_text,
    outcome_mark,
    percent,
    signed_points,
    word,
)
from mlxtune.present.words import WORDS, fill


def verdict(found: Verdict) -> Text:
    if not found.outcome:
        rates = ", ".join(f"{arm} {percent(share)}" for arm, share in found.rates.items())
        return text(f"No adapter evaluated. Without training, {metric_label(found.metric)}: {rates}.", "bold")
    mark = outcome_mark(found.outcome)
    style: Style = "" if mark == "muted" else mark
    return Text(((f"{capital(word(found.outcome))}.", style), (f" {_reason(found)}", "bold")), mark)


def verdict_text(found: Verdict) -> str:
    """Return a verdict in at most two sentences, the first of which is the outcome."""
    return verdict(found).plain


def _reason(found: Verdict) -> str:
    if found.cut:
        return f"The token limit may decide: {_cut_count(found.cut)} were cut off at {_cut_limit(found.cut)}."
    if found.free:
        meaning = "so the contract does not measure the task" if found.metric == CONTRACT else "which the adapter does not surpass"
        arm, share = found.free
        return f"{capital(FREE_ANSWERS[arm])} reaches {percent(share)}, {meaning}."
    if (recipe := found.recipe) and found.reason == "recipe":
        low, change, high = map(signed_points, (recipe.low, recipe.change, recipe.high))
        subject = f"{capital(metric_label(found.metric))}, mean of {recipe.seeds} seeds"
        return f"{subject}: {change} points versus {recipe.rival} ({confidence(recipe.level)} interval: {low} to {high})."
    worse = found.contract if found.contract and found.contract.outcome == "worse" else None
    decisive = worse or found.headline
    return change_sentence(decisive, arm="" if decisive.second == TUNED else decisive.second) if decisive else ""


def change_sentence(item: Comparison, *, arm: str = "") -> str:
    """Return a comparison's change in points. ``arm`` names the second arm, if it is not obvious."""
    low, change, high = map(signed_points, (item.low, item.change, item.high))
    p = item.p if item.adjusted is None else item.adjusted
    disagree = item.outcome == "cannot_tell" and (item.low > 0 or item.high < 0)
    test = f", but p = {p:.3f}" if disagree else ""
    name = f"{capital(metric_label(item.metric))}{f', {arm}' if arm else ''}"
    return f"{name}: {change} points versus {item.first} ({confidence(item.level)} interval: {low} to {high}{test})."


def _cut_count(cut: CutAnswers) -> str:
    return f"{cut.count} of {cut.rows} answers of {cut.arm}"


def _cut_limit(cut: CutAnswers) -> str:
    return f"{cut.max_tokens:,} tokens" if cut.max_tokens else "the token limit"


def conclusion_facts(report: EvaluationReport) -> list[Fact]:
    found, item, contract = report.verdict, report.headline, report.contract
    facts: list[Fact] = []
    if item:
        paired = item.paired
        counts = f"{item.first} → {item.second}: {paired.fixed:,} fixed, {paired.broken:,} broken"
        facts.append(Fact("passed", f"{paired.first:,} → {paired.second:,} of {paired.total:,}", counts))
        if found.cut or found.free or found.recipe or (contract and contract.outcome == "worse" and contract.metric != item.metric):
            facts.append(comparison_fact(item))
    if contract and contract is not item:
        counts = f"{contract.paired.first:,} → {contract.paired.second:,} of {contract.paired.total:,}"
        facts.append(Fact("contract met", counts, mark=outcome_mark(contract.outcome)))
    if cut := found.cut:
        limits = "evaluation.max_tokens or evaluation.thinking_tokens" if cut.thinking else "evaluation.max_tokens"
        facts.append(Fact("token limit", f"{_cut_count(cut)} cut at {_cut_limit(cut)}", f"raise {limits}", "warning"))
    if item and found.nearness:
        is_alone = sum(is_tuned(arm.name) for arm in report.arms) == 1
        answers, subject = item.paired.total, item.second if is_alone else "each tuned arm"
        if found.recipe and found.reason == "recipe":
            answers, subject = answers * found.recipe.seeds, f"{found.recipe.seeds} adapters"
        facts.append(Fact("decided by", f"{found.nearness:,} of {answers:,} answers", f"of {subject}"))
    if found.needed_rows:
        facts.append(Fact("rows needed", f"about {found.needed_rows:,}", "to tell"))
    for metric, change in found.also_worse.items():
        facts.append(Fact("also worse", metric_label(metric), f"{signed_points(change)} points", "error"))
    if found.grammar:
        met = "the whole contract" if found.grammar == "contract" else "the schema"
        facts.append(Fact("grammar", f"meets {met} every time", "without training", "warning"))
    if seeds := report.seeds:  # what another seed is expected to give; the seeds' table has the recommended adapter's result
        mean = seeds.rate.mean
        value = f"{percent(mean.value)} ({100 * mean.low:.0f} to {100 * mean.high:.0f}) with another seed"
        facts.append(Fact("recipe", value, f"seed {seeds.chosen.seed} recommended by the validation rows alone"))
    if report.off_task:
        facts.append(off_task_fact(report.off_task))
    elif item:
        facts.append(Fact("off-task", "not measured", "evaluation.regression", "muted"))
    return facts


def comparison_fact(item: Comparison) -> Fact:
    change = f"{change_text(item.low, item.change, item.high)} points"
    return Fact(metric_label(item.metric), change, f"versus {item.first}, {word(item.outcome)}", outcome_mark(item.outcome))


def off_task_fact(result: OffTaskResult) -> Fact:
    paired, overall = result.overall.paired, result.overall
    before, after = (f"{100 * count / paired.total:.1f}" for count in (paired.first, paired.second))
    change = change_text(overall.low, overall.change, overall.high)
    mark = "warning" if result.outcome == "cannot_tell" else outcome_mark(result.outcome)
    answers = f"{paired.total:,} answers"
    if result.nearness:
        answers = f"{result.nearness:,} of {answers} {'decides' if result.nearness == 1 else 'decide'}"
    note = f"{change} points, {word(result.outcome)}; {answers}, margin {100 * result.margin:g} points"
    return Fact("off-task", f"{before}% → {after}%", note, mark)


def holdout_facts(report: EvaluationReport) -> list[Fact]:
    rows = report.facts["rows"]
    groups, metric = report.facts.get("groups", rows), report.headline_metric
    compared = next((rate.total for rate in report.arms[0].rates if rate.metric == metric == PREFERENCE), rows)
    near = f"{plural(groups, 'group')}: near-duplicates count as one" if groups < rows else ""
    facts = [Fact("rows", f"{rows:,} held out", near)]
    if report.has_few_groups:
        facts.append(Fact("few groups", f"{report.facts['effective_groups']:.1f} effective", f"below {MIN_GROUPS}", "warning"))
    if compared < rows:
        facts.append(Fact("pairs", f"{compared:,} of {rows:,}", "compared; the others do not fit in data.max_tokens", "warning"))
    if record := report.facts.get("contamination"):
        found = from_json(Contamination, record)
        if found.code == "unknown":
            facts.append(Fact("trained on", "unknown", f"training records of {one_line(found.adapter, 60)} are missing", "warning"))
        else:
            facts.append(Fact("trained on", "none of them", f"compared with {plural(found.rows, 'row')}"))
    if record := report.facts.get("changed_terms"):
        changed = from_json(ChangedTerms, record)
        facts.append(Fact("changed", listed(changed.terms), f"since {changed.since}", "warning"))
    facts += history_facts(report.holdout)
    if not report.headline:
        facts.append(detectable_gain_fact(min(groups, compared), len(report.arms), report.facts["level"]))
    return facts


def history_facts(history: HoldoutHistory | None) -> list[Fact]:
    """Describe the earlier use of rows, which lowers the level of a verdict on them."""
    if history is None:
        return []
    again = history.look > 1
    look = _look_text(history.look) if again else ""
    judged = f"{history.judged} in blind sessions or by a judge" if history.judged else ""
    models = f"{history.models} of exported models" if history.models else ""
    last = "last look at the reserved rows" if history.last_look else ""
    note = "; ".join(filter(None, [last, judged, models, look]))
    facts = [Fact("evaluated", plural(history.evaluations, "time"), note, "warning" if again else "")]
    if history.new or history.missing:
        changed = f"{plural(history.new, 'row')} new, {history.missing} removed"
        facts.append(Fact("rows changed", changed, "since the last evaluation", "warning"))
    if history.exported:
        facts.append(Fact("exported", plural(history.exported, "row"), "for training", "warning"))
    if history.edited_line:
        facts.append(Fact("ledger", f"edited at line {history.edited_line}", "its count is unreliable", "error"))
    if history.ledger != "whole":
        mark: Mark = "warning" if history.ledger == "ledger_elsewhere" else "error"
        facts.append(Fact("ledger", word(history.ledger), "lines known from mlxtune's home folder are counted", mark))
    return facts


def _look_text(look: int) -> str:
    return f"look {look} at an adapter, {level_text(look)}"


def contract_fact(report: EvaluationReport) -> Fact:
    required = report.facts.get("required", [])
    if required != [CORRECT]:
        return Fact("contract", ", ".join(map(metric_label, required)))
    if report.headline_metric == PREFERENCE:
        return Fact("contract", "none", "compared by which answer of a pair is more likely")
    return Fact("contract", "none", "compared with the references")


def report_facts(report: EvaluationReport) -> Facts:
    return Facts((*conclusion_facts(report), *holdout_facts(report), contract_fact(report)))


def caveat_text(caveat: Caveat | None) -> str:
    """Return a short reason not to promote an adapter that is better, or ``""``."""
    return fill(WORDS.caveats[caveat.reason], {**vars(caveat), "points": 100 * caveat.margin}) if caveat else ""


def refusal_text(report: EvaluationReport, *, accept_unknown: bool = False) -> str:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be."""
    reason = promotion_refusal(report, accept_unknown=accept_unknown)
    if reason == "looks_spent":
        return f"{verdict_text(report.verdict)} The level is used up: {_look_text(report.facts['holdout']['look'])}."
    if reason == "not_better":
        return verdict_text(report.verdict)
    if not reason or not report.off_task:
        return ""
    fact = off_task_fact(report.off_task)
    return f"Off-task accuracy: {fact.value} ({fact.note})."


def refusal_hint(report: EvaluationReport) -> str:
    """Return a remedy for the reason not to promote the adapter, or ``""``."""
    return WORDS.promotion_hints.get(promotion_refusal(report), "")
