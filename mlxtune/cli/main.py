"""The ``mlxtune`` command: alone it opens the app, with a verb it works headless."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

import mlxtune
from mlxtune.cli import (
    adapters,
    advise,
    blind,
    chat,
    compare,
    curate,
    data,
    demo,
    evaluate,
    export,
    judge,
    models,
    plan,
    review,
    runs,
    score,
    selftest,
    serve,
    train,
    verify,
    workspace,
)
from mlxtune.cli.screen import complain, out, say
from mlxtune.cli.start import has_terminal, open_app
from mlxtune.core.errors import InputError, MlxtuneError

app = typer.Typer(
    help="Fine-tune a local model on one Mac, and prove that it helped. Alone, mlxtune opens the app.",
    invoke_without_command=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("doctor")(workspace.doctor)
app.command("init")(workspace.init)
app.command("advise")(advise.advise)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("score")(score.score)
app.command("selftest")(selftest.selftest)
app.command("blind")(blind.blind)
app.command("judge")(judge.judge)
app.command("verify")(verify.verify)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
data.app.command("split")(curate.split)
data.app.command("review")(review.review)
data.app.command("export")(curate.export)
data.app.command("import")(curate.import_)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
for verb in (export.fuse, export.export, export.push, export.pull):
    adapters.app.command(verb.__name__)(verb)
app.add_typer(adapters.app, name="adapters")


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Open the app when no verb is given."""
    if version:
        out.print(mlxtune.__version__)
        raise typer.Exit
    if context.invoked_subcommand is not None:
        return
    if not has_terminal():
        raise InputError("The app needs a terminal.", mend="mlxtune --help shows the verbs that work without one.")
    open_app()


def main() -> None:
    """Run the command line; every ending has its exit code (0 done, 1 a gate says no, 2 bad input, 3 stopped, 4 our fault)."""
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        ended(error)


def ended(error: Exception) -> NoReturn:
    """Say what ended the command, and end with the code that means it."""
    match error:
        case MlxtuneError():
            complain(error)
            sys.exit(error.exit_code)
        case typer.Abort():
            sys.exit(130)
        case TyperException() if not error.format_message():
            sys.exit(2)  # a group of verbs alone: its help is printed already
        case TyperException():
            context = getattr(error, "ctx", None)  # of the verb that was called wrongly
            verb = context.command_path if context else "mlxtune"
            complain(InputError(error.format_message(), mend=f"{verb} --help shows what there is."))
            sys.exit(2)
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
    if os.environ.get("MLXTUNE_DEBUG"):
        traceback.print_exception(error)
    say(("✗ ", "bold error"), f"A fault of ours: {type(error).__name__}: {error}")
    say("  ", ("MLXTUNE_DEBUG=1 shows where.", "muted"))
    sys.exit(4)


if __name__ == "__main__":
    main()
