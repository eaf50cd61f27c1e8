"""Ask for consent before anything is sent to another machine."""

import sys

import typer

from mlxtune.cli.output import err, styled
from mlxtune.core.errors import InputError


def require_consent(what: str, send: bool, hint: str) -> str:
    """Return how the user consented to ``what``, a sentence without its full stop. Raise ``InputError`` with ``hint`` if there is no consent."""
    if send:
        return "--send"
    if sys.stdin.isatty():
        err.print(styled(("  ! ", "bold warning"), f"{what}."))
        if typer.confirm("  Send them?", err=True):
            return "asked in the terminal"
    raise InputError(f"{what}, which needs your consent.", hint=hint)
