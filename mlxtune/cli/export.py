"""``export``: write an adapter in the format of another program."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import fidelity, lmstudio
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.fidelity import Fidelity
from mlxtune.adapters.export.formats import FORMATS, NAMES, ExportFormat, FormatOption, copy_adapter, find_format
from mlxtune.adapters.export.tried import use_commands
from mlxtune.cli.adapters import Which
from mlxtune.cli.follow import follow_answers
from mlxtune.cli.options import Json, Overrides
from mlxtune.cli.output import Cell, info, out, progress_bar, say_changed_evaluation, show, show_json
from mlxtune.cli.tables import print_columns, print_heading, print_table
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.text import one_line, size, suggest
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.render.comparison_table import comparison_table
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch
from mlxtune.runs.registry import Run
from mlxtune.training.start import check_recipe
from mlxtune.workspace import control

To = Annotated[
    Path | None,
    typer.Option("--to", help="The folder to create. Default: a folder in exports/."),
]
Rows = Annotated[
    Path | None,
    typer.Option(
        "--recipe", help="A recipe whose held-out rows are used to check the export. For fewer: --set evaluation.rows=50."
    ),
]


def _with(option: FormatOption) -> str:
    """Return the forms that have an option, for its help."""
    return ", ".join(one.name for one in FORMATS if one.option == option)


Force = Annotated[
    bool,
    typer.Option("--force", help="Keep the export even if it is not faithful, and replace LM Studio's preset of the same name."),
]
Format = Annotated[str, typer.Argument(help="; ".join(f"{one.label}: {one.about}" for one in FORMATS) + ".", metavar="FORMAT")]  # fmt: skip


def export(
    form: Format = "",
    which: Which = "last",
    lora: Annotated[
        bool, typer.Option("--lora", help=f"Export only the adapter, not fused into its base ({_with('--lora')}).")
    ] = False,
    precision: Annotated[
        str, typer.Option("--precision", help=f"The precision of a GGUF file: {', '.join(exports.PRECISIONS)}. Default: f16.")
    ] = "",
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize", help=f"Quantize the adapted weights as in the base: smaller, but lossy ({_with('--requantize')})."
        ),
    ] = False,
    base: Annotated[
        str, typer.Option("--from", help="With --lora, the name of the adapter's base in Ollama, such as llama3.2:3b.")
    ] = "",
    to: To = None,
    recipe: Rows = None,
    overrides: Overrides = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export an adapter for another program: fused into its base and checked against the adapter, or on its own."""
    if not form:
        raise InputError(
            f"Choose a format: {', '.join(NAMES)}.",
            hint="For example: mlxtune export mlx last (mlxtune export --help describes them)",
        )
    if form not in NAMES:
        raise InputError(f"Unknown export format {one_line(form, 40)}.", hint=suggest(form, NAMES))
    if precision and precision not in exports.PRECISIONS:
        raise InputError(f"Unknown precision {one_line(precision, 40)}.", hint=suggest(precision, list(exports.PRECISIONS)))
    chosen = _find_format(form, which, lora=lora, requantize=requantize)
    if precision and chosen.form != "gguf":
        raise InputError(
            f"--precision cannot be used with {chosen.label}.",
            hint="A GGUF file with only the adapter is in float32. Remove --precision."
            if lora
            else f"mlxtune export llamacpp {which} --precision {precision}",
        )
    if chosen.name == "ollama" and lora != bool(base):
        raise InputError(
            "For Ollama, --lora and --from must be used together.", hint=f"mlxtune export ollama {which} --lora --from llama3.2:3b"
        )
    if base and chosen.name != "ollama":
        raise InputError(f"--from cannot be used with {form}.", hint=f"mlxtune export ollama {which} --lora --from {base}")
    entry = library.find_usable(Path.cwd(), which)
    if chosen.copy:
        for option, given in (("--recipe", recipe), ("--set", overrides), ("--force", force)):
            if given:
                raise InputError(
                    f"{option} cannot be used with {chosen.label}.",
                    hint=f"The adapter is copied bit for bit, so nothing is compared. Remove {option}.",
                )
        _copy(entry, chosen, to, json)
        return
    own = compared_recipe(entry, recipe, overrides or [])
    with progress_bar("looking for the model") as update:
        run = control.export(
            Path.cwd(), entry, chosen, target=to, recipe=own, force=force, precision=precision or "f16",
            ollama_base=base, progress=update,
        )  # fmt: skip
    try:
        code = follow_answers(run)
    finally:
        exports.remove_unfinished(run)
    if not json:
        show_export(run)
    elif (run.folder / fidelity.FILE).is_file():
        show_json(_document(run.id, fidelity.load(run.folder), dict(run.state().summary), code))
    if code:
        raise typer.Exit(code)
    if chosen.program == "ollama" and not json and shutil.which("ollama"):
        command, _ = use_commands(launch.read_request(run.folder), str(dict(run.state().summary)["folder"]))
        if subprocess.run(command, check=False).returncode:
            raise MachineError("Ollama did not create the model.", hint=shlex.join(command))


def compared_recipe(entry: AdapterEntry, path: Path | None, overrides: Sequence[str]) -> Recipe | None:
    """Return the recipe whose held-out rows an export of ``entry`` is compared on, or ``None`` if there is none.

    By default, without a ``path``, it is the recipe of the adapter's training run, evaluated as the workspace's recipe says now.
    """
    if path:
        recipe = load(path, overrides)
        check_recipe(recipe)
        return recipe
    own, file = exports.run_recipe(entry, overrides)
    if file:
        say_changed_evaluation(file, f"--recipe {shlex.quote(os.path.relpath(entry.folder.parent / 'recipe.toml'))}")
    if own is None and overrides:
        raise InputError(f"{entry.name} has no recipe that --set could change.", hint="Name one: --recipe RECIPE")
    return own


def show_export(run: Run) -> None:
    """Print an export's fidelity, its folder, and how to use it, if it has been compared with the adapter."""
    if (run.folder / fidelity.FILE).is_file():
        summary = dict(run.state().summary)
        _print_fidelity(fidelity.load(run.folder), summary)
        if summary:
            _print_use(run)


def _find_format(form: str, which: str, *, lora: bool, requantize: bool) -> ExportFormat:
    """Return the format with the options given. Raise ``InputError`` if the program has no such format."""
    option: FormatOption = "--lora" if lora else "--requantize" if requantize else ""
    if lora and requantize:
        raise InputError("--requantize cannot be used with --lora.", hint=f"mlxtune export mlx {which} --requantize")
    if chosen := find_format(form, option):
        return chosen
    usable = next(one.name for one in FORMATS if one.option == option and one.copy is None)
    raise InputError(f"{option} cannot be used with {form}.", hint=f"mlxtune export {usable} {which} {option}")


def _copy(entry: AdapterEntry, chosen: ExportFormat, to: Path | None, json: bool) -> None:
    """Write only the adapter, which needs no worker."""
    folder, names = copy_adapter(Path.cwd(), entry, chosen, to)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    if json:
        show_json({"folder": str(shown), "form": chosen.name, "files": names})
    else:
        info(("✓ ", "bold success"), f"Wrote {entry.name} to {shown}: {', '.join(names)}")


def _print_use(run: Run) -> None:
    """Print how to use the finished export ``run`` in the program that it was written for."""
    request = launch.read_request(run.folder)
    program, name, folder = request.get("program", ""), request.get("name", ""), str(dict(run.state().summary)["folder"])
    for command in use_commands(request, folder):
        info(("  " + shlex.join(command), "primary"))
    if program == "lmstudio":
        model = lmstudio.model_folder(name)
        listed = f"LM Studio lists the model as {lmstudio.PUBLISHER}/{name}"
        if Path(folder) != model.resolve():
            listed = f"To have LM Studio list the model, move its folder to {one_line(str(model), 200)}"
        info(f"  {listed}. The preset is {name}.")


def _document(run_id: str, proof: Fidelity, summary: Mapping[str, Any], code: int) -> dict[str, Any]:
    """Return the export as a JSON object. ``folder`` is null if the export was rejected."""
    return {
        "run": run_id, "form": proof.form, "folder": summary.get("folder"), "bytes": summary.get("bytes"),
        "faithful": not proof.failure, "refused": code == 1, "lost": proof.lost_share, "verdict": proof.sentence,
        **to_json(proof),
    }  # fmt: skip


def _print_fidelity(proof: Fidelity, summary: Mapping[str, Any]) -> None:
    print_heading(out, "Fidelity", "base with adapter versus export, on held-out rows")
    lossy = ("! ", "bold warning") if proof.is_lossy else ("✓ ", "bold success")
    show("  ", ("✗ ", "bold error") if proof.failure else lossy, (proof.sentence, "bold"))
    show("")
    head: list[Cell] = [(name, "faint") for name in ("", "logits, mean", "max", "KL, nats per token", "same top token")]
    rows: list[list[Cell]] = [
        [(name, "muted"), f"{item.mean:.4f}", f"{item.max:.3f}", f"{item.kl:.5f}", f"{100 * item.agree:.1f}%"]
        for name, item in (("adapter's effect", proof.change), ("export's error", proof.loss))
    ]
    print_columns([head, *rows], right=(1, 2, 3, 4))
    if proof.rates:
        show("")
        print_table(
            comparison_table("Contract", "adapter, then export", [(metric_label(item.metric), item) for item in proof.rates])
        )
    if summary:
        show("")
        show(("  Folder   ", "muted"), str(summary["folder"]), (f"   {size(summary['bytes'])}", "muted"))
