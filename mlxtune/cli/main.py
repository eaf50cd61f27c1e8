"""The ``mlxtune`` command: alone it opens the app, with a verb it works headless."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

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
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("The app needs a terminal.", mend="mlxtune --help shows the verbs that work without one.")
    from mlxtune.tui.app import run

    run(Path.cwd())


def main() -> None:
    """Run the command line; every ending has its exit code (0 done, 1 a gate says no, 2 bad input, 3 stopped, 4 our fault)."""
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except MlxtuneError as error:
        complain(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except TyperException as error:
        complain(InputError(error.format_message(), mend="mlxtune --help shows what there is."))
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("MLXTUNE_DEBUG"):
            traceback.print_exc()
        say(("✗ ", "bold error"), f"A fault of ours: {type(error).__name__}: {error}")
        say("  ", ("MLXTUNE_DEBUG=1 shows where.", "muted"))
        sys.exit(4)


if __name__ == "__main__":
    main()
