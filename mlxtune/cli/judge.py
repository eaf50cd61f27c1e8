"""``judge``: let a language model compare two arms' answers, and measure how reliable the judge is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import CostCap, EndpointUrl, Json, PromptPrice, ReplyPrice, with_option_groups
from mlxtune.cli.output import draw, info, progress_bar, require_consent, show_json
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import write_json
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import plural
from mlxtune.evaluation.blind import blind_session
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.judge import endpoint, judge_report, judge_session, rubric
from mlxtune.evaluation.judge.endpoint import AskJudge, CostMeter, EndpointClient
from mlxtune.evaluation.judge.local import BATCH_SIZE, LocalJudge
from mlxtune.models.resolve import resolve
from mlxtune.present.judge import judge_document
from mlxtune.runs import registry

WORKERS = 4  # concurrent questions


@dataclass(frozen=True)
class JudgeOptions:
    """The model that judges, and what it may cost."""

    local: Annotated[str, typer.Option("--local", help="A judge on this machine: an alias, a Hub ID, or a folder.")] = ""
    model: Annotated[str, typer.Option("--model", help="The judge's model name at its endpoint.")] = ""
    url: EndpointUrl = endpoint.OFFICIAL
    key_env: Annotated[
        str,
        typer.Option(
            "--key-env", help="The environment variable with the API key.", show_default="OPENAI_API_KEY or MLXTUNE_JUDGE_KEY"
        ),
    ] = ""
    price_in: PromptPrice = 0.0
    price_out: ReplyPrice = 0.0
    cap: CostCap = None
    send: Annotated[bool, typer.Option("--send", help="Consent to sending rows to the endpoint.")] = False


@with_option_groups
def judge(
    which: Annotated[str, typer.Argument(help="An evaluation's folder or ID, or last.", metavar="EVALUATION")] = "last",
    first: Annotated[str, typer.Argument(help="The first arm.")] = "base",
    second: Annotated[str, typer.Argument(help="The second arm, which the verdict is about.")] = "tuned",
    options: JudgeOptions = JudgeOptions(),
    questions: Annotated[Path | None, typer.Option("--rubric", help="A TOML file with the questions.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Number of rows, chosen at random. Default: all.")] = None,
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


def _here(options: JudgeOptions) -> _Judge:
    """Return a local judge, identified by its weights. Raise ``InputError`` if a model behind an endpoint is named, too."""
    if options.model:
        raise InputError("--local and --model cannot be combined.", hint="Use only one of them.")
    with progress_bar("looking for the model") as update:
        source = resolve(options.local, progress=update)
    return _Judge(
        f"{Path(source.name).name}@{source.fingerprint[:8]}", "", BATCH_SIZE, lambda folder: LocalJudge(source.folder, folder)
    )


def _behind(options: JudgeOptions, meter: CostMeter) -> _Judge:
    """Return a judge behind an endpoint. Raise ``InputError`` if the model name, the API key, or the cost cap is missing."""
    url, model = options.url, options.model
    if not model:
        raise InputError("No judge was specified.", hint="Use --model NAME, or --local NAME for a model on this machine.")
    name = endpoint.host(url)
    near = endpoint.is_local(name)
    secret = endpoint.api_key(url, options.key_env)
    if not near and (meter.cap is None or not meter.price_in or not meter.price_out):
        raise InputError(
            "A remote judge costs money, so it needs a cap.",
            hint="Use --price-in and --price-out ($ per million tokens) and --cap.",
        )
    return _Judge(model, "" if near else name, WORKERS, lambda _: nullcontext(EndpointClient(url, model, secret, meter).ask))
