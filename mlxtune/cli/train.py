"""``train``: start a training run from a recipe and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.follow import follow
from mlxtune.cli.options import Json, Overrides, RecipeFile
from mlxtune.cli.output import info, progress_bar, show, show_json
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe, load
from mlxtune.training import start
from mlxtune.training.distributed import launcher


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    hosts: Annotated[int, typer.Option("--hosts", help="Number of local processes for data-parallel training.")] = 1,
    hostfile: Annotated[
        Path | None, typer.Option("--hostfile", help="A file that lists the machines to use, in mlx.launch format.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return immediately.")] = False,
    json: Json = False,
) -> None:
    """Start a run and follow it. Closing the terminal or pressing Ctrl-C does not stop it."""
    loaded = load(recipe, overrides or [])
    request = launcher.launch_request(hosts, hostfile)
    with progress_bar("looking for the model") as update:
        run = start.start(Path.cwd(), loaded, request, progress=update)
    if detach:
        show_json({"run": run.id, "folder": str(run.folder)}) if json else show(run.id)
        return
    info(("  ", ""), f"{run.id}   ", ("press Ctrl-C to detach; the run continues", "muted"))
    code = follow(run, json=json)
    if code == 0 and run.state().phase == "finished" and not json:
        info("")
        show("Adapter: ", str(run.adapter))
        info("Evaluate it:  ", (f"mlxtune eval {run.id}", "primary"))
    raise typer.Exit(code)


def fetch(recipe: Recipe) -> None:
    """Download the base model if it is missing. Raise ``ModelError`` or ``MachineError`` if that fails."""
    with progress_bar("looking for the model") as update:
        resolve(recipe.model.base, relative_to=recipe.folder, progress=update)
