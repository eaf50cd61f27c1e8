"""``train``: start a run of a recipe and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.follow import follow
from mlxtune.cli.screen import bar, say, show, show_json
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation.contract import Contract
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch
from mlxtune.training import peers

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a .toml file.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set training.epochs=3", metavar="KEY=VALUE")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    hosts: Annotated[int, typer.Option("--hosts", help="Processes on this machine that share the work.")] = 1,
    hostfile: Annotated[Path | None, typer.Option("--hostfile", help="Machines that share the work, as for mlx.launch.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return at once.")] = False,
    json: Json = False,
) -> None:
    """Start a run and follow it. Closing the terminal or Ctrl-C does not stop it."""
    loaded = load(recipe, overrides or [])
    asked = peers.request(hosts, hostfile)
    check(loaded)
    fetch(loaded)
    run = launch.start(Path.cwd(), "train", loaded, asked)
    if detach:
        show_json({"run": run.id, "folder": str(run.folder)}) if json else show(run.id)
        return
    say(("  ", ""), f"{run.id}   ", ("Ctrl-C lets go of it, the run goes on", "muted"))
    code = follow(run, json=json)
    if code == 0 and run.state().phase == "finished" and not json:
        say("")
        show("Adapter: ", str(run.adapter))
        say("Prove that it helped:  ", (f"mlxtune eval {run.id}", "primary"))
    raise typer.Exit(code)


def check(recipe: Recipe) -> None:
    """Refuse data and a contract that cannot be used before a run's folder is made. Raises ``InputError``."""
    split(read_source(recipe.source, recipe.data.format, recipe.data.map), recipe.data)
    Contract.of(recipe)


def fetch(recipe: Recipe) -> None:
    """Have the base on disk before a worker starts, with a progress bar. Raises ``ModelError`` or ``MachineError``."""
    with bar("looking for the model") as update:
        resolve(recipe.model.base, near=recipe.folder, progress=update)
