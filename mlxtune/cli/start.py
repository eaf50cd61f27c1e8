"""Entry point of ``mlxtune``: opens the app without importing the CLI, or runs a command."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Open the app if there is a terminal and no arguments are given. Otherwise, run the command line."""
    if len(sys.argv) > 1 or not (sys.stdin.isatty() and sys.stdout.isatty()):
        from mlxtune.cli.main import main as run_verb

        run_verb()
        return
    try:
        from mlxtune.tui.app import run

        run(Path.cwd())
    except Exception as error:
        from mlxtune.cli.main import exit_with

        exit_with(error)
