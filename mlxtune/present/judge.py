"""Describe what a judge of two arms' answers found, and how reliable it is."""

from mlxtune.core.text import plural
from mlxtune.evaluation.judge.judge_report import JudgeCalibration, JudgeReport
from mlxtune.evaluation.statistics.intervals import Estimate
from mlxtune.present.blocks import Block, Document, Fact, Facts, Heading, Mark, text
from mlxtune.present.comparison import comparison_table, score_table, tally_text
from mlxtune.present.labels import outcome_mark

_MODERATE = 0.4  # κ at which agreement counts as moderate (Landis and Koch 1977)


def judge_document(report: JudgeReport) -> Document:
    first, second = report.facts.arms
    blocks: list[Block] = [
        Heading("Judge", plural(report.facts.rows, "row")),
        text(judge_verdict(report), "bold", outcome_mark(report.outcome)),
        judge_facts(report),
    ]
    if report.comparisons:
        note = "yes/no questions; exact McNemar test with Holm-adjusted p-values; Newcombe intervals"
        blocks.append(
            comparison_table(f"{second} over {first}, judged", note, [(item.metric, item) for item in report.comparisons])
        )
    return (*blocks, *([score_table(report.scores)] if report.scores else []))


def judge_verdict(report: JudgeReport) -> str:
    if report.faults or report.unusable:
        return "Cannot tell. The judge is unreliable."
    return tally_text(report.pairs, *report.facts.arms)


def judge_facts(report: JudgeReport) -> Facts:
    first, second = report.facts.arms
    found = [Fact("sentinels", f"passed “{name}”", ", ".join(questions), "error") for name, questions in report.faults.items()]
    if report.unusable:
        found.append(Fact("unusable", f"{report.unusable} of {plural(report.facts.calls, 'reply', 'replies')}", "", "error"))
    found = [Fact("judge", report.facts.judge), *(found or [Fact("sentinels", "none passed")])]
    for name, known in report.known.items():
        counts = f"accepted {known.accepted} of {known.right} references, rejected {known.rejected} of {known.wrong} of other rows"
        found.append(Fact(name, counts, *kappa_note(known.kappa)))
    found.append(Fact("both orders", f"{report.flips} of {report.both} pairs flipped", "counted as ties"))
    found.append(Fact("repeated", f"{report.same} of {report.repeated} identical grades"))
    for subject, kinds in report.problems.items():
        arm = {"first": first, "second": second}.get(subject, "pairs")
        found.append(Fact(f"unusable, {arm}", ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
    found += calibration_facts(report.calibrated, second) if report.calibrated else []
    return Facts((*found, *([Fact("spent", f"${report.facts.spent:.4f}")] if report.facts.spent else [])))


def kappa_note(agreement: Estimate | None) -> tuple[str, Mark]:
    """Return κ, and a warning if it is low or undefined."""
    is_weak = agreement is None or agreement.value < _MODERATE
    return f"κ {agreement.value:.2f}" if agreement else "κ undefined", "warning" if is_weak else ""


def calibration_facts(result: JudgeCalibration, second: str) -> list[Fact]:
    agreement = Fact("agreement", f"{result.agreed} of {result.rows} rows with you", *kappa_note(result.kappa))
    powered, votes = result.win_rate.powered, result.win_rate.labels
    if result.win_rate.weight == 0:
        why = f"{plural(result.voted, 'vote')}; the judge's grades add nothing"
        return [agreement, Fact(f"{second} wins", _interval(votes), why)]
    return [
        agreement,
        Fact(f"{second} wins", _interval(powered), f"votes and judge, as precise as {result.win_rate.effective_n:.0f} votes"),
        Fact("your votes", _interval(votes), plural(result.voted, "vote")),
        Fact("the judge", f"{100 * result.raw:.0f}%", plural(result.units, "pair")),
    ]


def _interval(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f}% ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
