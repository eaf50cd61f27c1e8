"""Where ``mlxtune`` begins: alone it opens the app, which need not wait until every verb is loaded."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def main() -> None:
    """Open the app if there is a terminal and nothing else was asked for; else run the command line."""
    if len(sys.argv) > 1 or not has_terminal():
        from mlxtune.cli.main import main as verbs

        verbs()
        return
    try:
        open_app()
    except Exception as error:
        from mlxtune.cli.main import ended

        ended(error)


def has_terminal() -> bool:
    """Whether someone can see and steer the app."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def open_app() -> None:
    """The app on the folder that the command was given in; returns when the user leaves."""
    from mlxtune.tui.app import run

    run(Path.cwd())


def typed() -> str:
    """What to type for ``mlxtune`` in this terminal: its path where the command of that name is another one, or there is none."""
    own = Path(sys.executable).with_name("mlxtune")
    found = shutil.which("mlxtune")
    if found and Path(found).resolve() == own.resolve():
        return "mlxtune"
    return shlex.quote(str(own)) if own.is_file() else f"{shlex.quote(sys.executable)} -m mlxtune"
