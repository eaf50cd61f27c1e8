"""Build an evaluation's report from the scores of its arms."""

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from mlxtune.evaluation.answers import MAX_CUT, ArmAnswers, SeedAnswers, is_undecided
from mlxtune.evaluation.arms import GRAMMAR, is_free, is_tuned
from mlxtune.evaluation.report import ArmResult, EvaluationReport, Rate, ReportFacts, strongest_arm, token_limit
from mlxtune.evaluation.scorers import CONTRACT, PASS, PREFERENCE, Score
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.seed_report import build_seed_report, recipe_verdict
from mlxtune.evaluation.statistics.clusters import ClusterMean, cluster_mean, effective_groups, effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.statistics.significance import level_for_look, needed_rows
from mlxtune.evaluation.verdict import BestBaseline, Comparison, CutAnswers, Outcome, Verdict, apply_holm, compare, compare_scores

ScoredRows = Sequence[dict[str, Score]]


def metric_rates(scored: ScoredRows, groups: Sequence[Hashable] = ()) -> tuple[Rate, ...]:
    """Return the rate of each metric over the outputs that it applies to.

    ``groups`` says which outputs belong together; intervals use the effective number of independent outputs.
    """
    rates, groups = [], groups or range(len(scored))
    for metric in max(scored, key=len):
        scores = [row[metric] for row in scored if metric in row]
        own_groups = [group for row, group in zip(scored, groups, strict=True) if metric in row]
        size = effective_n([score.passed for score in scores], own_groups)
        hits = sum(score.passed for score in scores)
        failures = Counter(kind for score in scores if not score.passed for kind in score.kinds)
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        interval = wilson(hits, len(scores), effective_n=size)
        rates.append(Rate(metric, hits, len(scores), *interval, dict(failures.most_common()), mean))
    return tuple(rates)


def build(
    facts: ReportFacts, arms: Sequence[ArmAnswers], groups: Sequence[Hashable] = (), seeds: Sequence[SeedAnswers] = ()
) -> EvaluationReport:
    """Build the report of ``arms``, whose scored answers are to the same rows. The base comes first, the tuned arms last. Each arm that
    is not free is compared with the base, and each tuned arm with the strongest other arm, which the strongest tuned arm must beat. ``groups`` says which rows
    belong together (near-duplicates, or rows of one customer); by default, all rows are independent. ``seeds`` are the recipe's
    adapters, of which the tuned arms have the recommended one.
    """
    groups = groups or range(len(arms[0].answers))
    complete: ReportFacts = {
        **facts, "groups": len(set(groups)), "effective_groups": effective_groups(groups),
        "level": level_for_look(facts.get("holdout", {}).get("look") or 1), "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip
    report = _compared(complete, arms, groups)
    by_name = {arm.name: arm for arm in arms}
    margins = tuple(
        compare_scores("margin", first, second, *both)
        for first, second in dict.fromkeys((item.first, item.second) for item in report.comparisons)
        if len(set((both := _margins([by_name[first], by_name[second]], groups))[1])) > 1
    )
    seed_report = None
    if seeds:
        baselines = {arm.name: arm.scores for arm in arms if not is_tuned(arm.name)}
        rival = strongest_arm([result for result in report.arms if result.name in baselines], report.headline_metric).name
        ordered = {rival: baselines[rival], **baselines}
        seed_report = build_seed_report(seeds, report.headline_metric, groups, ordered, report.facts["level"])
    verdict = _verdict(report, _deciding_cut_arm(report, arms, groups))
    verdict = replace(verdict, nearness=_nearness(report, verdict, arms, groups))
    verdict = recipe_verdict(verdict, seed_report) if seed_report else verdict
    return replace(report, margins=margins, seeds=seed_report, verdict=verdict)


def _compared(facts: ReportFacts, arms: Sequence[ArmAnswers], groups: Sequence[Hashable]) -> EvaluationReport:
    """Return the report of ``arms`` without its margins, seeds and verdict."""
    results = tuple(
        ArmResult(
            arm.name, arm.cached, arm.seconds, metric_rates(arm.scores, groups), arm.statistics, _margin(arm, groups), arm.perplexity,
            sum(answer.thought_tokens for answer in arm.answers) or None, arm.prompt_tokens,
        )
        for arm in arms
    )  # fmt: skip
    headline = facts.get("headline", CONTRACT)
    pairs = [(arms[0], arm) for arm in arms[1:] if not is_free(arm.name)]
    tuned, others = [arm for arm in arms if is_tuned(arm.name)], [result for result in results if not is_tuned(result.name)]
    if tuned and len(others) > 1:
        rivals = {strongest_arm(others, metric).name for metric in (headline, CONTRACT)} - {arms[0].name}
        pairs += [(rival, arm) for arm in tuned for rival in arms if rival.name in rivals]
    comparisons = tuple(
        compare(metric, first.name, second.name, *both_passed(metric, first.scores, second.scores, groups))
        for first, second in pairs
        for metric in max(second.scores, key=len)
        if metric not in FORMS
    )
    report = EvaluationReport(facts, results, comparisons, Verdict("", "no_adapter", headline))
    tests = filter(None, (_best_baseline(report, metric, arms, groups) for metric in {headline, CONTRACT}))
    deciding = {(test.metric, test.rival, test.arm): test.comparison() for test in tests}
    adjusted = apply_holm([item for item in comparisons if item.names not in deciding], lambda item: item.metric == headline)
    named = {item.names: item for item in adjusted} | deciding
    return replace(report, comparisons=tuple(named[item.names] for item in comparisons))


def _best_baseline(
    report: EvaluationReport, metric: str, arms: Sequence[ArmAnswers], groups: Sequence[Hashable]
) -> BestBaseline | None:
    """Return the test of the report's arm against the best baseline on the rows to which ``metric`` applies in every arm."""
    subject, others = report.subject.name, [arm for arm in report.arms if not is_tuned(arm.name)]
    rows = [index for index in range(len(groups)) if all(metric in arm.scores[index] for arm in arms)]
    if not rows or not others or not is_tuned(subject):
        return None
    passed = {arm.name: [arm.scores[index][metric].passed for index in rows] for arm in arms}
    return BestBaseline(
        metric, subject, passed[subject], {arm.name: passed[arm.name] for arm in others}, strongest_arm(others, metric).name,
        [groups[index] for index in rows], [passed[arm] for arm in passed if is_tuned(arm) and arm != subject], report.facts["level"],
    )  # fmt: skip


def _nearness(report: EvaluationReport, verdict: Verdict, arms: Sequence[ArmAnswers], groups: Sequence[Hashable]) -> int | None:
    """Return the fewest rows whose tuned answers would have to be different for another verdict."""
    headline = _best_baseline(report, report.headline_metric, arms, groups)
    if headline is None or verdict.cut:
        return None
    contract = _best_baseline(report, CONTRACT, arms, groups) if verdict.contract else None
    steps = {"better": (True,), "worse": (False,)}.get(verdict.outcome, (True, False))
    if verdict.reason == "contract" and contract:
        tests = [contract, headline] if verdict.headline and verdict.headline.outcome == "worse" else [contract]
        needed = [test.nearness(lambda outcome: outcome != "worse", steps) for test in tests]
        return None if None in needed else max(filter(None, needed))
    found = [headline.nearness(lambda outcome: outcome != verdict.outcome, steps)]
    if contract and verdict.outcome != "worse":
        found.append(contract.nearness(lambda outcome: outcome == "worse", (True,)))
    return min((one for one in found if one), default=None)


def both_passed(
    metric: str, first: ScoredRows, second: ScoredRows, groups: Sequence[Hashable]
) -> tuple[list[tuple[bool, bool]], list[Hashable]]:
    """Return whether each arm passed, for the rows to which ``metric`` applies in both arms, and the groups of those rows."""
    passed = ([row[metric].passed if metric in row else None for row in scored] for scored in (first, second))
    return _complete(passed, groups)


def _margins(arms: Sequence[ArmAnswers], groups: Sequence[Hashable]) -> tuple[list[tuple[float, ...]], list[Hashable]]:
    """Return the margin of each arm, for the pairs that all of them compared, and the groups of those pairs."""
    return _complete(([answer.margin for answer in arm.answers] for arm in arms), groups)


def _complete(columns: Iterable[Sequence[Any]], groups: Sequence[Hashable]) -> tuple[list[Any], list[Hashable]]:
    """Return the rows of ``columns`` that lack no value, and their groups."""
    rows = [(row, group) for row, group in zip(zip(*columns, strict=True), groups, strict=True) if None not in row]
    return [row for row, _ in rows], [group for _, group in rows]


def _margin(arm: ArmAnswers, groups: Sequence[Hashable]) -> ClusterMean | None:
    margins, own_groups = _margins([arm], groups)
    return cluster_mean([margin for (margin,) in margins], own_groups) if len(set(own_groups)) > 1 else None


def _verdict(report: EvaluationReport, cut: ArmResult | None) -> Verdict:
    """Return what the comparisons show, unless the limit of ``cut`` may decide. A gain in preferences at the contract's expense counts as worse."""
    headline, contract, metric = report.headline, report.contract, report.headline_metric
    constrained = next((arm for arm in report.arms if arm.name == GRAMMAR and report.answer_metric == CONTRACT), None)
    met = [rate.metric for rate in constrained.rates if rate.hits == rate.total] if constrained else []
    grammar: Literal["", "contract", "schema"] = "contract" if CONTRACT in met else "schema" if "schema" in met else ""
    if headline is None:
        rates = {arm.name: arm.rate(metric).share for arm in report.arms}
        arm = next((arm for arm in report.arms if _is_cut(report, arm, report.facts.get("rows", 0))), None)
        return Verdict("", "no_adapter", metric, grammar=grammar, cut=_cut_answers(report, arm), rates=rates)
    contract = None if contract is headline else contract
    is_worse = contract is not None and contract.outcome == "worse"
    tuned = sum(is_tuned(arm.name) for arm in report.arms)
    chances = tuned if headline.change > 0 else len(report.arms) - tuned
    rows = None if report.grouped or headline.outcome != "cannot_tell" else needed_rows(headline.paired, headline.level / chances)
    others: dict[str, float] = {}
    if not is_worse and headline.outcome != "worse":
        compared = [item for item in report.comparisons if item.names[1:] == headline.names[1:] and item.metric != metric]
        others = {item.metric: item.change for item in compared if item.outcome == "worse"}
    outcome: Outcome = "cannot_tell" if cut else "worse" if is_worse else headline.outcome
    reason: Literal["token_limit", "contract", "change"] = "token_limit" if cut else "contract" if is_worse else "change"
    rows = rows if rows and rows > headline.paired.total else None
    return Verdict(
        outcome, reason, metric, headline, contract, rows, others, grammar, _cut_answers(report, cut), _free_rival(report)
    )


def _free_rival(report: EvaluationReport) -> tuple[str, float] | None:
    """Return the strongest free arm (of equal ones, the first) if it does as well as the subject: if its rate is not below the subject's interval.

    On the same rows, a difference can be certain although the rate is in the interval; then there is none.
    """
    if report.headline and report.headline.outcome == "better":
        return None
    if not (free := [arm for arm in report.arms if is_free(arm.name)]):
        return None
    strongest = strongest_arm(free[::-1], report.headline_metric)
    rate, low = strongest.rate(report.headline_metric), report.subject.rate(report.headline_metric).low
    return (strongest.name, rate.share) if rate.hits and rate.share >= low else None


def _deciding_cut_arm(report: EvaluationReport, arms: Sequence[ArmAnswers], groups: Sequence[Hashable]) -> ArmResult | None:
    """Return an arm that did not win and whose answers were cut off so often that the token limit may have decided the outcome.

    The limit is not decisive if the outcome is the same with all answers counted as passes that might have passed.
    """
    item = _deciding_comparison(report)
    if item is None or (report.headline_metric != item.metric and item.outcome != "worse") or item.metric == PREFERENCE:
        return None
    beaten = [arm.name for arm in arms if not is_tuned(arm.name)]
    sides = {"better": beaten, "worse": [item.second]}.get(item.outcome, [item.first, item.second])
    for arm, result in zip(arms, report.arms, strict=True):
        if arm.name in sides and _is_cut(report, result, item.paired.total):
            passing = tuple(  # each answer that was cut off and might have passed, with a pass
                replace(one, scores={**one.scores, item.metric: PASS}) if is_undecided(one) and item.metric in one.scores else one
                for one in arm.answers
            )
            changed = [replace(arm, answers=passing) if one is arm else one for one in arms]
            other = _deciding_comparison(_compared(report.facts, changed, groups))
            if other is None or other.outcome != item.outcome:
                return result
    return None


def _deciding_comparison(report: EvaluationReport) -> Comparison | None:
    return report.contract if report.answer_metric == CONTRACT else report.headline


def _is_cut(report: EvaluationReport, arm: ArmResult, rows: int) -> bool:
    """Return whether so many answers of ``arm`` were cut off that it cannot lose a comparison on ``rows``."""
    return report.answer_metric != PREFERENCE and arm.answers.undecided > MAX_CUT * rows


def _cut_answers(report: EvaluationReport, arm: ArmResult | None) -> CutAnswers | None:
    if arm is None:
        return None
    limit = report.facts.get("continued", {}).get(arm.name, token_limit(report.facts, arm.name))
    return CutAnswers(arm.name, arm.answers.undecided, report.facts.get("rows", 0), limit, bool(arm.thought_tokens))
