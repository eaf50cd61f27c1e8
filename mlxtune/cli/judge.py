"""``judge``: let a language model compare two arms' answers, and measure how reliable the judge is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlxtune.cli.options import EvaluationName, FirstArm, Json, ModelOptions, SecondArm, exclusive, option, with_option_groups
from mlxtune.cli.output import info, progress_bar, require_consent, show_result
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.blind import blind_session
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.judge import endpoint, judge_report, judge_session, rubric
from mlxtune.evaluation.judge.endpoint import AskJudge, CostMeter, EndpointClient
from mlxtune.evaluation.judge.local import BATCH_SIZE, LocalJudge
from mlxtune.models.resolve import resolve
from mlxtune.present.judge import judge_document
from mlxtune.present.labels import most_text
from mlxtune.present.report import publish
from mlxtune.runs import registry

WORKERS = 4  # concurrent questions


@with_option_groups
def judge(
    which: EvaluationName = "last",
    first: FirstArm = "base",
    second: SecondArm = "tuned",
    options: ModelOptions = ModelOptions(),
    questions: Annotated[Path | None, option("--rubric", "Questions (TOML file).")] = None,
    n: Annotated[int | None, option("--n", "Number of rows, at random. Default: all.", min=1)] = None,
    json: Json = False,
) -> None:
    """Ask a judge narrow questions about both arms' answers, and about each pair in both orders.

    Sentinel answers expose an unreliable judge (exit 1). Your blind votes, if any, show how closely it agrees with you. Replies
    are saved, so no question is asked or paid for twice. The evaluation's report shows the result.
    """
    meter = CostMeter(options.price_in, options.price_out, options.cap)
    chosen = _here(options) if options.local else _behind(options, meter)
    run = registry.find_run(Path.cwd(), which, "eval")
    rows = load_pairs(run.folder, first, second)
    asked = rubric.load_rubric(questions or "default")
    fixed = judge_session.open_session(run.folder, first, second, rows, asked, judge=chosen.name, host=chosen.place, n=n or 0)
    evaluated = reports.load(run.folder) if (run.folder / reports.FILE).is_file() else None
    if evaluated:
        judge_report.load_all(run.folder, without=fixed.folder)  # before anything is asked: raises if it could not be shown
    calls = fixed.calls
    worst = sum(meter.worst_case(call.messages) for call in calls)
    most = most_text(worst, meter.cap)
    info(("  ", ""), f"{plural(len(fixed.rows), 'row')}, {plural(len(calls), 'question')} to {fixed.judge}{most}.")
    if fixed.host and not fixed.consent:
        what = f"{plural(len(fixed.rows), 'row')}, including prompts and answers, will be sent to {fixed.host}"
        fixed = judge_session.record_consent(fixed, require_consent(what, options.send))
    with progress_bar("asking the judge") as update, chosen.open(fixed.folder) as asker:
        verdicts = judge_session.run_judge(
            fixed, asker, meter,
            lambda done, total: update(f"{100 * done // total}% of {total} questions to {chosen.name}", done / total),
            workers=chosen.workers,
        )  # fmt: skip
    report = judge_report.build_judge_report(
        fixed, verdicts, blind_session.revealed_choices(run.folder, first, second, rows), meter.spent
    )
    judge_report.save(report, fixed.folder)
    if evaluated and publish(evaluated, run.folder):
        info(("! ", "bold warning"), f"The report's old signature was removed. Sign it again: mlxtune verify {run.id} --sign KEY")
    show_result({"folder": str(fixed.folder), **to_json(report)}, judge_document(report), json=json)
    if report.faults or report.unusable:
        raise GateError("The judge is unreliable, so its verdict does not count.", hint="Use another model, or mlxtune blind.")


@dataclass(frozen=True)
class _Judge:
    """A judge's name, the host that receives the rows (empty if none), the number of concurrent questions, and how to open it."""

    name: str
    place: str
    workers: int
    open: Callable[[Path], AbstractContextManager[AskJudge]]


def _here(options: ModelOptions) -> _Judge:
    """Return a local judge, identified by its weights. Raise ``InputError`` if a model behind an endpoint is named, too."""
    exclusive(local=options.local, model=options.model)
    with progress_bar() as update:
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
