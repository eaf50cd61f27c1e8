"""The command line: a table of commands that are imported on demand, and the exit code of every error."""

import errno
import os
import shlex
import sys
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup, TyperOption
from typer.exceptions import TyperException

import mlxtune
from mlxtune.cli.options import option
from mlxtune.cli.output import info, out, print_error, terminal_error
from mlxtune.core.errors import EmptyWorkspaceError, InputError, MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data import samples

# Every command with the function or Typer app that implements it. The name of a command in a group starts with the group.
VERBS = {
    "demo": "demo:demo",
    "docs": "docs:docs",
    "doctor": "workspace:doctor",
    "bench": "bench:bench",
    "init": "workspace:init",
    "open": "open:open_room",
    "advise": "advise:advise",
    "plan": "plan:plan",
    "train": "train:train",
    "search": "search:search",
    "eval": "evaluate:evaluate",
    "improve": "improve:improve",
    "queue": "queue:app",
    "compare": "compare:compare",
    "score": "score:score",
    "selftest": "score:selftest",
    "blind": "blind:blind",
    "judge": "judge:judge",
    "report": "report:report",
    "verify": "report:verify",
    "export": "export:export",
    "verify-export": "export:verify_export",
    "chat": "chat:chat",
    "serve": "serve:serve",
    "mcp": "mcp:mcp",
    "data": "data:app",
    "data review": "review:review",
    "data apply": "apply:apply",
    "data generate": "generate:generate",
    "recipe": "recipe:app",
    "runs": "runs:app",
    "models": "models:app",
    "adapters": "adapters:app",
}


@cache
def load_verb(name: str) -> Any:
    """Import an entry of ``VERBS`` and return its Typer command."""
    module, _, attribute = VERBS[name].partition(":")
    target = getattr(import_module(f"mlxtune.cli.{module}"), attribute)
    if isinstance(target, typer.Typer):
        group: Any = typer.main.get_command(target)
        group.name = name  # the help of the parent shows it
        group.commands |= {verb.partition(" ")[2]: load_verb(verb) for verb in VERBS if verb.startswith(f"{name} ")}
        return group
    app = typer.Typer(add_completion=False)
    app.command(name.rpartition(" ")[2])(target)
    return typer.main.get_command(app)


class VerbGroup(TyperGroup):
    """A group with the top-level commands in ``VERBS``. A command is imported when it is looked up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(name for name in VERBS if " " not in name)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_verb(cmd_name) if cmd_name in self.commands else None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            from mlxtune.cli.follow import print_detached
            from mlxtune.runs.launch import DetachedEarly

            if not isinstance(error, DetachedEarly):
                raise
            print_detached(error.run)
            raise typer.Exit(0) from error


def _display_type(option: TyperOption, ctx: Any) -> str | None:
    """Return an option's type for its help. A flag has none, but Typer 0.29 shows ``<bool>``."""
    return None if option.is_flag else _typer_display_type(option, ctx)


_typer_display_type: Any = getattr(TyperOption, "display_type_rich", None)
TyperOption.display_type_rich = _display_type  # type: ignore[method-assign, assignment]

_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=VerbGroup,
    help="Fine-tune a local model on one Mac, and prove that it helped. Without a command, mlxtune opens the app.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP_OPTIONS,
)


@app.callback()
def default(
    context: typer.Context, version: Annotated[bool, option("--version", "Print the version and exit.", is_eager=True)] = False
) -> None:
    """Print the version, or explain why the app did not open."""
    if version:
        out.print(mlxtune.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise terminal_error()


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed check, 2 invalid input, 3 stopped, 4 internal or system error."""
    try:
        code = app(prog_name="mlxtune", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        exit_with(error)


def exit_with(error: Exception) -> NoReturn:
    match error:
        case typer.Abort():
            sys.exit(130)
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        case EmptyWorkspaceError() if near := samples.nearest_workspace(Path.cwd()):
            error.hint = f"This folder is not a workspace. The nearest one: cd {shlex.quote(os.path.relpath(near))}"
        case TyperException() if not error.format_message():
            sys.exit(2)  # a group without a command, whose help is already printed
        case TyperException():
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "mlxtune"
            error = InputError(error.format_message(), hint=f"Run {command} --help to see its usage.")
        case OSError(errno=errno.EFBIG | errno.ENOSPC | errno.EDQUOT):
            error = MachineError(f"A file cannot be written: {error.strerror}.", hint="Free up disk space, or raise ulimit -f.")
        case OSError(filename=name) if name or error.errno in (errno.EIO, errno.ENOENT):  # such as a folder that cannot be created
            error = MachineError(f"{one_line(str(name or 'A file'))}: {error.strerror}.", hint="Check the path.")
    if isinstance(error, MlxtuneError):
        print_error(error)
        sys.exit(error.exit_code)
    if os.environ.get("MLXTUNE_DEBUG"):
        traceback.print_exception(error)
    info(("✗ ", "bold error"), f"Internal error: {type(error).__name__}: {error}")
    info("  ", ("This is a bug in mlxtune. Set MLXTUNE_DEBUG=1 to print the traceback.", "muted"))
    sys.exit(4)


if __name__ == "__main__":
    main()
