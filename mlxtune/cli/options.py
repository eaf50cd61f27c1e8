"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="The recipe (a .toml file).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, for example --set training.epochs=3.", metavar="KEY=VALUE")
]
EndpointUrl = Annotated[str, typer.Option("--url", help="An OpenAI-compatible endpoint.")]
PromptPrice = Annotated[float, typer.Option("--price-in", min=0, help="Dollars per million prompt tokens.")]
ReplyPrice = Annotated[float, typer.Option("--price-out", min=0, help="Dollars per million reply tokens.")]
CostCap = Annotated[float | None, typer.Option("--cap", min=0, help="Maximum cost in dollars.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable output on stdout.")]
