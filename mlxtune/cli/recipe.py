"""``recipe``: import a recipe from another trainer's config."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import info, show, show_json
from mlxtune.core.errors import InputError
from mlxtune.core.files import write_text

app = typer.Typer(no_args_is_help=True)


@app.callback()
def recipe() -> None:
    """Import recipes."""


@app.command("import")
def import_(
    config: Annotated[Path, argument("An mlx_lm.lora YAML config.")],
    to: Annotated[Path | None, option("--to", "The recipe to write. Default: next to the config.")] = None,
    force: Annotated[bool, option("--force", "Replace the recipe.")] = False,
    json: Json = False,
) -> None:
    """Write a recipe with the same effect as an mlx_lm.lora config. Reports settings that have no equivalent."""
    from mlxtune.recipe.importers.mlx_lm import import_config

    target = to or config.parent / f"{config.stem}.toml"
    if target.exists() and not force:
        raise InputError(f"{target} already exists.", hint="Use --force to replace it, or --to to write another file.")
    imported = import_config(config, target)
    write_text(target, imported.text)
    for note in imported.notes:
        info(("! ", "bold warning"), note)
    if json:
        show_json({"recipe": str(target), "notes": imported.notes})
    else:
        show(("✓ ", "bold success"), f"Wrote {target}.   ", (f"mlxtune plan {shlex.quote(str(target))}", "primary"))
