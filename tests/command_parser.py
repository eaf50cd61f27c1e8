"""Parse commands without running them."""

from typing import Any

import typer

from mlxtune.cli.main import app

PARSER: Any = typer.main.get_command(app)


def parse_command(arguments: list[str]) -> None:
    """Parse a command without running it. Raises for an unknown verb, option or argument."""
    command, rest = PARSER, arguments
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"There is no command {' '.join(arguments)}."
        command, rest = command.get_command(None, rest[0]), rest[1:]
    command.make_context("mlxtune", list(rest), **(app.info.context_settings or {}))
