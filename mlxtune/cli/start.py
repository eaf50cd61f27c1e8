"""Entry point of ``mlxtune``: opens the app without importing the CLI, or runs a command."""

import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main() -> None:
    """Open the app if there is a terminal and no arguments are given. Otherwise, run the command line."""
    if len(sys.argv) > 1 or not (sys.stdin.isatty() and sys.stdout.isatty()):
        from mlxtune.cli.main import main as run_verb

        run_verb()
        return
    try:
        open_app({})
    except Exception as error:
        from mlxtune.cli.main import exit_with

        exit_with(error)


def open_app(state: Mapping[str, Any]) -> None:
    """Open the app on this folder. ``state`` takes precedence over the state that the app saved when it was last closed."""
    gc.disable()  # during the imports: collections would take 5% of the time to the first paint and free nothing
    from mlxtune.tui.app import run

    gc.enable()
    gc.freeze()
    run(Path.cwd(), state)
