"""Output of the command line: results on stdout, everything else on stderr, in the app's wording and colors."""

import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.theme import Theme

from mlxtune.core.errors import EmptyWorkspaceError, InputError, MlxtuneError
from mlxtune.data import samples
from mlxtune.present import terminal
from mlxtune.present.blocks import Document
from mlxtune.present.terminal import Part, print_document, styled

_TOKENS = {
    "primary": "#a3a8f5",
    "second": "#b98f3a",
    "success": "#4f9e68",
    "warning": "#d0812f",
    "error": "#d85560",
    "muted": "#8a8f9d",
    "faint": "#7b8090",
    "line": "#6b7080",
}
_THEME = Theme(_TOKENS, inherit=False)

out = Console(theme=_THEME, highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(theme=_THEME, highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)

ProgressUpdate = Callable[[str, float], None]


draw = partial(print_document, console=out)
print_columns = partial(terminal.print_columns, console=out)


def info(*parts: Part) -> None:
    """Print a message on stderr."""
    err.print(styled(*parts))


def show(*parts: Part) -> None:
    """Print a line of the result on stdout."""
    out.print(styled(*parts))


def show_json(value: Any) -> None:
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    print(re.sub("[\ud800-\udfff]", lambda surrogate: f"\\u{ord(surrogate[0]):04x}", text))


def show_result(facts: Any, document: Document, *, json: bool) -> None:
    """Print a result: its facts as JSON, or the document that describes it."""
    show_json(facts) if json else draw(document)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, with null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_none(nouns: str, hint: str, *, anywhere: bool = False) -> None:
    """Say that there are no runs or adapters yet. Raise ``EmptyWorkspaceError`` if this folder is not a workspace, unless ``anywhere``."""
    if not (anywhere or samples.is_workspace(Path.cwd())):
        raise EmptyWorkspaceError(f"There are no {nouns} in {Path.cwd()}.", hint="Create a workspace: mlxtune init NAME")
    show(f"There are no {nouns} yet.   ", (hint, "primary"))


def say_changed_evaluation(recipe: Path, own: str) -> None:
    """Say that ``[evaluation]`` has changed in ``recipe`` since a run. ``own`` is the command or the option for that of the run."""
    name = os.path.relpath(recipe)
    info("  ", (f"[evaluation] in {name} has changed since the run and is used as it is now. To use the run's: {own}", "muted"))


ERROR_FILE = "MLXTUNE_ERROR_FILE"  # names a file for the message of an error, which the queue records


def print_error(error: MlxtuneError) -> None:
    if path := os.environ.get(ERROR_FILE):
        Path(path).write_text(error.message, encoding="utf-8")
    info(("✗ ", "bold error"), error.message)
    if error.hint:
        info(("  ", ""), (error.hint, "muted"))


def terminal_error() -> InputError:
    return InputError("The app needs a terminal.", hint="Run mlxtune --help to list the commands that work without one.")


def command_name() -> str:
    """Return the command that runs this ``mlxtune``: its name, or its path if the name does not resolve to it."""
    own = Path(sys.executable).with_name("mlxtune")
    on_path = shutil.which("mlxtune")
    if on_path and Path(on_path).resolve() == own.resolve():
        return "mlxtune"
    return shlex.quote(str(own)) if own.is_file() else f"{shlex.quote(sys.executable)} -P -m mlxtune"


_LINE_SECONDS = 10.0  # between two lines of progress, where stderr is not a terminal


@contextmanager
def progress_bar(title: str = "looking for the model") -> Iterator[ProgressUpdate]:
    """Show a progress bar on stderr and yield ``update(description, fraction)``.

    If stderr is not a terminal, print the first description, then a changed one at most every ten seconds.
    """
    if not err.is_terminal:
        printed, due = "", 0.0

        def print_change(description: str, fraction: float) -> None:
            nonlocal printed, due
            if description != printed and time.monotonic() >= due:
                printed, due = description, time.monotonic() + _LINE_SECONDS
                info(("· ", "faint"), description)

        yield print_change
        return
    columns = (TextColumn("  {task.description}"), BarColumn(40, "line", "primary", "primary"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda description, fraction: progress.update(task, description=description, completed=fraction)


def require_consent(what: str, send: bool) -> str:
    """Return how the user consented to ``what``, a sentence without its full stop. Raise ``InputError`` without consent."""
    if send:
        return "--send"
    if sys.stdin.isatty():
        err.print(styled(("  ! ", "bold warning"), f"{what}."))
        if typer.confirm("  Send them?", err=True):
            return "asked in the terminal"
    raise InputError(f"{what}, which needs your consent.", hint="Consent with --send.")
