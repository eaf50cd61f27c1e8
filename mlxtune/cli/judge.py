"""``judge``: let a language model compare two arms' answers, and measure how reliable the judge is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlxtune.cli.options import Json, ModelOptions, argument, option, with_option_groups
from mlxtune.cli.output import draw, info, progress_bar, require_consent, show_json
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import write_json
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import plural
from mlxtune.evaluation.blind import blind_session
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.judge import endpoint, judge_report, judge_session, rubric
from mlxtune.evaluation.judge.endpoint import AskJudge, CostMeter, EndpointClient
from mlxtune.evaluation.judge.judge_report import JudgeCalibration, JudgeReport
from mlxtune.evaluation.judge.local import BATCH_SIZE, LocalJudge
from mlxtune.evaluation.statistics.agreement import Estimate
from mlxtune.models.resolve import resolve
from mlxtune.present.blocks import Block, Document, Fact, Facts, Heading, Mark, text
from mlxtune.present.comparison import comparison_table, score_table, tally_text
from mlxtune.present.labels import outcome_mark
from mlxtune.runs import registry

WORKERS = 4  # concurrent questions


@with_option_groups
def judge(
    which: Annotated[str, argument("An evaluation's folder or ID, or last.", metavar="EVALUATION")] = "last",
    first: Annotated[str, argument("The first arm.")] = "base",
    second: Annotated[str, argument("The second arm, which the verdict is about.")] = "tuned",
    options: ModelOptions = ModelOptions(),
    questions: Annotated[Path | None, option("--rubric", "A TOML file with the questions.")] = None,
    n: Annotated[int | None, option("--n", "Number of rows, chosen at random. Default: all.", min=1)] = None,
    json: Json = False,
) -> None:
    """Ask a judge narrow questions about both arms' answers, and about each pair in both orders.

    Sentinel answers expose an unreliable judge (exit 1). Your blind votes, if any, show how closely it agrees with you. Replies
    are saved, so no question is asked or paid for twice.
    """
    meter = CostMeter(options.price_in, options.price_out, options.cap)
    chosen = _here(options) if options.local else _behind(options, meter)
    run = registry.find_run(Path.cwd(), which, "eval")
    rows = load_pairs(run.folder, first, second)
    asked = rubric.load_rubric(questions) if questions else rubric.DEFAULT
    fixed = judge_session.open_session(run.folder, first, second, rows, asked, judge=chosen.name, host=chosen.place, n=n or 0)
    calls = fixed.calls
    worst = sum(meter.worst_case(call.messages) for call in calls)
    money = f", at most ${worst:.2f}" if worst else ""
    limit = f", cap ${meter.cap:.2f}" if meter.cap is not None else ""
    info(("  ", ""), f"{plural(len(fixed.rows), 'row')}, {plural(len(calls), 'question')} to {fixed.judge}{money}{limit}.")
    if fixed.host and not fixed.consent:
        what = f"{plural(len(fixed.rows), 'row')}, including prompts and answers, will be sent to {fixed.host}"
        consent = require_consent(what, options.send, "Consent with --send, or use a judge on this machine with --local.")
        fixed = judge_session.record_consent(fixed, consent)
    with progress_bar("asking the judge") as update, chosen.open(fixed.folder) as asker:
        verdicts = judge_session.run_judge(
            fixed, asker, meter,
            lambda done, total: update(f"{100 * done // total}% of {total} questions to {chosen.name}", done / total),
            workers=chosen.workers,
        )  # fmt: skip
    report = judge_report.build_judge_report(
        fixed, verdicts, blind_session.revealed_choices(run.folder, first, second, rows), meter.spent
    )
    write_json(fixed.folder / judge_report.FILE, {"v": judge_report.VERSION, **to_json(report)})
    show_json({"folder": str(fixed.folder), **to_json(report)}) if json else draw(judge_document(report))
    if report.faults or report.unusable:
        raise GateError(
            "The judge is unreliable, so its verdict does not count.", hint="Use another model, or vote yourself: mlxtune blind"
        )


@dataclass(frozen=True)
class _Judge:
    """A judge's name, the host that receives the rows (empty if none), the number of concurrent questions, and how to open it."""

    name: str
    place: str
    workers: int
    open: Callable[[Path], AbstractContextManager[AskJudge]]


def _here(options: ModelOptions) -> _Judge:
    """Return a local judge, identified by its weights. Raise ``InputError`` if a model behind an endpoint is named, too."""
    if options.model:
        raise InputError("--local and --model cannot be combined.", hint="Use only one of them.")
    with progress_bar("looking for the model") as update:
        source = resolve(options.local, progress=update)
    return _Judge(
        f"{Path(source.name).name}@{source.fingerprint[:8]}", "", BATCH_SIZE, lambda folder: LocalJudge(source.folder, folder)
    )


def _behind(options: ModelOptions, meter: CostMeter) -> _Judge:
    """Return a judge behind an endpoint. Raise ``InputError`` if the model name, the API key, or the cost cap is missing."""
    url, model = options.url, options.model
    if not model:
        raise InputError("No judge was specified.", hint="Use --model NAME, or --local NAME for a model on this machine.")
    name = endpoint.host(url)
    near = endpoint.is_local(name)
    secret = endpoint.api_key(url, options.key_env)
    endpoint.require_budget(url, options.price_in, options.price_out, options.cap)
    return _Judge(model, "" if near else name, WORKERS, lambda _: nullcontext(EndpointClient(url, model, secret, meter).ask))


_MODERATE = 0.4  # κ at which agreement counts as moderate (Landis and Koch 1977)


def judge_document(report: JudgeReport) -> Document:
    """Describe the verdict, the judge's reliability, and the comparison for each question."""
    first, second = report.facts["arms"]
    blocks: list[Block] = [
        Heading("Verdict", f"{plural(report.facts['rows'], 'row')}, judged by {report.facts['judge']}"),
        text(judge_verdict(report), "bold", outcome_mark(report.outcome)),
        Heading("The judge"),
        judge_facts(report),
    ]
    if report.comparisons:
        note = "yes/no questions; exact McNemar test with Holm-adjusted p-values; Newcombe intervals"
        blocks.append(comparison_table(f"{second} over {first}", note, [(item.metric, item) for item in report.comparisons]))
    return (*blocks, *([score_table(report.scores)] if report.scores else []))


def judge_verdict(report: JudgeReport) -> str:
    """Return a judge's verdict in at most two sentences."""
    if report.faults or report.unusable:
        return "Cannot tell. The judge is unreliable."
    return tally_text(report.pairs, *report.facts["arms"])


def judge_facts(report: JudgeReport) -> Facts:
    """Describe how reliable the judge is, and what it cost."""
    first, second = report.facts["arms"]
    found = [Fact("sentinels", f"passed “{name}”", ", ".join(questions), "error") for name, questions in report.faults.items()]
    if report.unusable:
        found.append(Fact("unusable", f"{report.unusable} of {plural(report.facts['calls'], 'reply', 'replies')}", "", "error"))
    found = found or [Fact("sentinels", "none passed")]
    for name, known in report.known.items():
        counts = f"accepted {known.accepted} of {known.right} references, rejected {known.rejected} of {known.wrong} of other rows"
        found.append(Fact(name, counts, *kappa_note(known.kappa)))
    found.append(Fact("both orders", f"{report.flips} of {report.both} pairs flipped", "counted as ties"))
    found.append(Fact("repeated", f"{report.same} of {report.repeated} identical grades"))
    for subject, kinds in report.problems.items():
        arm = {"first": first, "second": second}.get(subject, "pairs")
        found.append(Fact(f"unusable, {arm}", ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
    found += calibration_facts(report.calibrated, second) if report.calibrated else []
    return Facts((*found, *([Fact("spent", f"${report.facts['spent']:.4f}")] if report.facts["spent"] else [])))


def kappa_note(agreement: Estimate | None) -> tuple[str, Mark]:
    """Return κ, and a warning if it is low or undefined."""
    is_weak = agreement is None or agreement.value < _MODERATE
    return f"κ {agreement.value:.2f}" if agreement else "κ undefined", "warning" if is_weak else ""


def calibration_facts(result: JudgeCalibration, second: str) -> list[Fact]:
    """Describe how far the judge agrees with the user's blind votes, and the second arm's win rates."""
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
