"""``judge``: let a model read two arms' answers, and say how far it can be believed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.screen import Cell, bar, columns, err, heading, line, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import write_json
from mlxtune.core.text import plural
from mlxtune.evaluation import blind
from mlxtune.evaluation.answered import Pair, pairs
from mlxtune.evaluation.ballot import HEADLINE, Choice
from mlxtune.evaluation.judge import Asker, calibrate, endpoint, rubric, session
from mlxtune.evaluation.judge.endpoint import Endpoint, Meter
from mlxtune.evaluation.judge.local import TOGETHER, Local
from mlxtune.evaluation.judge.report import JudgeReport, build
from mlxtune.evaluation.judge.session import Session
from mlxtune.models.resolve import resolve
from mlxtune.runs import registry

WORKERS = 4  # questions in the air


def judge(
    which: Annotated[str, typer.Argument(help="An evaluation: its folder, id, or last.", metavar="EVALUATION")] = "last",
    first: Annotated[str, typer.Argument(help="One arm.")] = "base",
    second: Annotated[str, typer.Argument(help="The other; the verdict is about it.")] = "tuned",
    local: Annotated[
        str, typer.Option("--local", help="A judge on this machine: an alias, a hub id or a folder.", show_default=False)
    ] = "",
    model: Annotated[str, typer.Option("--model", help="The judge, as its endpoint calls it.", show_default=False)] = "",
    url: Annotated[str, typer.Option("--url", help="An OpenAI-compatible endpoint.")] = endpoint.OFFICIAL,
    key_env: Annotated[
        str,
        typer.Option(
            "--key-env", help="The environment variable with the key.", show_default="OPENAI_API_KEY or MLXTUNE_JUDGE_KEY"
        ),
    ] = "",
    questions: Annotated[Path | None, typer.Option("--rubric", help="A TOML file with the questions.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Rows, drawn by lot. Default: all.")] = None,
    price_in: Annotated[float, typer.Option("--price-in", min=0, help="Dollars per million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option("--price-out", min=0, help="Dollars per million reply tokens.")] = 0.0,
    cap: Annotated[float | None, typer.Option("--cap", min=0, help="Dollars it may cost at most.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Agree that rows leave this machine.")] = False,
    json: Json = False,
) -> None:
    """Ask a judge one narrow question at a time about both arms' answers, and each pair in both orders.

    Sentinels in the batch show a judge who can be talked into anything (exit 1). Your own blind votes, where there are some,
    say how far it agrees with you. What was asked is kept and never asked, or paid, twice.
    """
    meter = Meter(price_in, price_out, cap)
    chosen = _here(local, model) if local else _behind(url, model, key_env, meter)
    run = registry.find(Path.cwd(), which, "eval")
    rows = pairs(run.folder, first, second)
    asked = rubric.read(questions) if questions else rubric.DEFAULT
    fixed = session.fix(run.folder, first, second, rows, asked, judge=chosen.name, place=chosen.place, n=n or 0)
    _tell(fixed, meter)
    if fixed.place and not fixed.consent:
        fixed = session.agree(fixed, _consent(fixed, send))
    with bar("asking the judge") as update, chosen.open(fixed.folder) as asker:
        verdicts = session.run(
            fixed, asker, meter,
            lambda done, total: update(f"{100 * done // total} % of {total} questions to {chosen.name}", done / total),
            workers=chosen.workers,
        )  # fmt: skip
    report = build(fixed, verdicts, _votes(run.folder, first, second, rows), meter.spent)
    write_json(fixed.folder / "report.json", {"v": 1, **asdict(report)})
    show_json({"folder": str(fixed.folder), **asdict(report)}) if json else table(report)
    if report.broken:
        raise GateError(
            "The judge is broken, and nothing it says counts.", mend="Take another model, or read the pairs yourself: mlxtune blind"
        )


@dataclass(frozen=True)
class _Judge:
    """Who is asked: the name in the session, the host that rows go to (empty: none), how many questions at a time, and the asker."""

    name: str
    place: str
    workers: int
    open: Callable[[Path], AbstractContextManager[Asker]]


def _here(base: str, model: str) -> _Judge:
    """A model on this machine, known by its weights. Raises ``InputError`` where another is named too, ``ModelError``."""
    if model:
        raise InputError("There can be one judge.", mend="Give --local or --model.")
    with bar("looking for the model") as update:
        source = resolve(base, progress=update)
    return _Judge(f"{Path(source.name).name}@{source.fingerprint[:8]}", "", TOGETHER, lambda folder: Local(source.folder, folder))


def _behind(url: str, model: str, key_env: str, meter: Meter) -> _Judge:
    """A model behind an endpoint. Raises ``InputError`` where it has no name, no key, or no cap on what it costs."""
    if not model:
        raise InputError("The judge has no name.", mend="Say which model: --model NAME, or --local NAME for one on this machine.")
    name = endpoint.host(url)
    near = endpoint.is_local(name)
    secret = endpoint.key(url, key_env)
    if not near and (meter.cap is None or not meter.price_in or not meter.price_out):
        raise InputError(
            "A judge elsewhere costs money.", mend="Say how much it may: --price-in, --price-out (dollars per million) and --cap."
        )
    return _Judge(model, "" if near else name, WORKERS, lambda _: nullcontext(Endpoint(url, model, secret, meter)))


def _tell(fixed: Session, meter: Meter) -> None:
    """How much will be asked, and what it costs at most."""
    calls = fixed.calls
    worst = sum(meter.worst(call.messages) for call in calls)
    money = f", ${worst:.2f} at the very most" if worst else ""
    limit = f", and the cap is ${meter.cap:.2f}" if meter.cap is not None else ""
    say(("  ", ""), f"{plural(len(fixed.rows), 'row')}, {plural(len(calls), 'question')} to {fixed.judge}{money}{limit}.")


def _consent(fixed: Session, send: bool) -> str:
    """How the user agreed to rows' leaving the machine. Raises ``InputError`` where nobody did."""
    if send:
        return "--send"
    what = f"{plural(len(fixed.rows), 'row')}, prompts and answers, leave this machine for {fixed.place}."
    if sys.stdin.isatty():
        err.print(line(("  ! ", "bold warning"), what))
        if typer.confirm("  Send them?", err=True):
            return "asked in the terminal"
    raise InputError(f"{what} Nobody agreed to that.", mend="Agree with --send, or take a judge on this machine.")


def _votes(evaluation: Path, first: str, second: str, rows: tuple[Pair, ...]) -> dict[str, Choice]:
    """The user's blind votes on the two arms, by row; empty while there is no opened session."""
    if not blind.begun(evaluation, first, second):
        return {}
    with blind.Session(evaluation, first, second, rows) as voted:
        if not voted.opened:
            return {}
        return {pair.id: arm for pair, asked, arm in voted.choices() if asked == HEADLINE}


def table(report: JudgeReport) -> None:
    """The report on a terminal: whether the judge held, the verdict, each question's 2×2 before its p."""
    first, second = report.facts["arms"]
    heading(out, "Verdict", f"{plural(report.facts['rows'], 'row')}, judged by {report.facts['judge']}")
    word = "" if report.broken else report.pairs.word
    mark: Cell = {"better": ("✓ ", "bold success"), "worse": ("✗ ", "bold error")}.get(word, ("· ", "muted"))
    show("  ", mark, (report.verdict, "bold"))
    show("")
    heading(out, "The judge")
    facts: list[tuple[Cell, Cell]] = [
        (("sentinels", "muted"), ("; ".join(report.broken), "error") if report.broken else "none passed"),
        (("both orders", "muted"), f"{report.flips} of {report.both} pairs flipped, and count as ties"),
        (("planted repeats", "muted"), f"{report.same} of {report.repeated} verdicts the same again"),
    ]
    for subject, kinds in report.problems.items():
        arm = {"first": first, "second": second}.get(subject, "pairs")
        facts.append(((f"unusable, {arm}", "muted"), ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
    if found := report.calibrated:
        facts.append((("your blind votes", "muted"), calibrate.sentence(found)))
        if right := found.corrected:
            told = f"{second} preferred on {100 * found.raw:.0f} % of the rows; corrected {100 * right.value:.0f} % ({100 * right.low:.0f} to {100 * right.high:.0f})"
            facts.append((("corrected rate", "muted"), told))
    if report.facts["spent"]:
        facts.append((("spent", "muted"), f"${report.facts['spent']:.4f}"))
    columns(facts)
    if report.comparisons:
        show("")
        heading(out, f"{first} against {second}", "yes/no questions; exact McNemar p after Holm, Newcombe interval")
        head: list[Cell] = [(name, "faint") for name in ("", "fixed", "broken", "both", "neither", "change", "p")]
        body: list[list[Cell]] = [
            [
                item.metric, str(item.paired.fixed), str(item.paired.broken), str(item.paired.both), str(item.paired.neither),
                f"{100 * item.change:+.0f} points ({100 * item.low:+.0f} to {100 * item.high:+.0f})", _p(item.adjusted), (item.word, "bold"),
            ]
            for item in report.comparisons
        ]  # fmt: skip
        columns([[*head, ""], *body], right=(1, 2, 3, 4, 5, 6))
    if report.scores:
        show("")
        heading(out, "Scales, 1 to 5", "sign test p after Holm, bootstrap interval over groups")
        head = [(name, "faint") for name in ("", "rose", "fell", "same", "change", "p")]
        body = [
            [
                item.metric, str(item.rose), str(item.fell), str(item.tied),
                f"{item.change:+.2f} ({item.low:+.2f} to {item.high:+.2f})", _p(item.adjusted), (item.word, "bold"),
            ]
            for item in report.scores
        ]  # fmt: skip
        columns([[*head, ""], *body], right=(1, 2, 3, 4, 5))


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
