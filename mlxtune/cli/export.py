"""``export`` and ``verify-export``: write an adapter in the format of another program, and compare that program's answers with it."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import fidelity, lmstudio
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.endpoint_prompts import api_url, served_model
from mlxtune.adapters.export.formats import FORMATS, NAMES, ExportFormat, FormatOption, copy_adapter, find_format
from mlxtune.adapters.export.tried import find_export, tried_exports, use_commands
from mlxtune.cli.adapters import Which
from mlxtune.cli.follow import announce, follow_answers
from mlxtune.cli.options import Detach, Json, Overrides, argument, option, with_option_groups
from mlxtune.cli.output import draw, info, progress_bar, say_changed_evaluation, show_json, show_result
from mlxtune.core.errors import GateError, InputError, MachineError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line, suggest
from mlxtune.present.card import adapter_card
from mlxtune.present.export import fidelity_document, form_label, verification_document
from mlxtune.recipe import Recipe, load
from mlxtune.runs import launch
from mlxtune.runs.registry import Run, run_of
from mlxtune.training.preflight import check_recipe

Rows = Annotated[Path | None, option("--recipe", "The recipe whose held-out rows check the export.")]


def _with(option: FormatOption) -> str:
    """Return the forms that have an option, for its help."""
    return ", ".join(one.name for one in FORMATS if one.option == option)


@dataclass(frozen=True)
class ExportOptions:
    lora: Annotated[bool, option("--lora", f"Export only the adapter, not fused into its base ({_with('--lora')}).")] = False
    precision: Annotated[str, option("--precision", f"Of a GGUF file: {', '.join(exports.PRECISIONS)}. Default: f16.")] = ""
    smallest: Annotated[bool, option("--smallest", "The fewest bits, 4 to 8, that hold on held-out rows (GGUF, mlx).")] = False
    requantize: Annotated[bool, option("--requantize", f"Smaller, but lossy ({_with('--requantize')}).")] = False
    base: Annotated[str, option("--from", "With --lora, the name of the adapter's base in Ollama, such as llama3.2:3b.")] = ""
    to: Annotated[Path | None, option("--to", "The folder; default: exports/….")] = None
    force: Annotated[bool, option("--force", "Keep an unfaithful export, and replace LM Studio's preset.")] = False


@with_option_groups
def export(
    form: Annotated[str, argument("; ".join(f"{one.label}: {one.about}" for one in FORMATS) + ".", metavar="FORMAT")] = "",
    which: Which = "last",
    options: ExportOptions = ExportOptions(),
    recipe: Rows = None,
    overrides: Overrides = None,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Export an adapter for another program: fused into its base and checked against the adapter, or on its own."""
    chosen = _chosen_format(form, which, options)
    entry = library.find_usable(Path.cwd(), which)
    if chosen.form is None:
        for option, given in (("--recipe", recipe), ("--set", overrides), ("--force", options.force)):
            if given:
                raise InputError(f"{option} cannot be used with {chosen.label}.", hint=f"Remove {option}: nothing is compared.")
        folder, names = copy_adapter(Path.cwd(), entry, chosen, adapter_card, options.to)
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        if json:
            show_json({"folder": str(shown), "form": chosen.name, "files": names})
        else:
            info(("✓ ", "bold success"), f"Wrote {entry.name} to {shown}: {', '.join(names)}")
        return
    own = compared_recipe(entry, recipe, overrides or [])
    with progress_bar() as update:
        run = exports.start(
            Path.cwd(), entry, chosen.form, target=options.to, recipe=own, force=options.force, program=chosen.program,
            precision=exports.precision_of(exports.SMALLEST if options.smallest else options.precision), ollama_base=options.base, progress=update,
        )  # fmt: skip
    if not announce(run, "export", detach=detach, json=json):
        return
    try:
        code = follow_answers(run)
    finally:
        exports.remove_unfinished(run)
    if not json:
        show_export(run)
    elif (run.folder / fidelity.FILE).is_file():
        proof, summary = fidelity.load(run.folder), run.state().summary
        place = {"run": run.id, "folder": summary.get("folder"), "bytes": summary.get("bytes")}
        show_json({**place, "outcome": proof.outcome, "refused": code == 1, "lost": proof.lost_share, **to_json(proof)})
    if code:
        raise typer.Exit(code)
    if chosen.program == "ollama" and not json and shutil.which("ollama"):
        command, _ = use_commands(launch.read_request(run.folder), str(run.state().summary["folder"]))
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
        say_changed_evaluation(file, f"--recipe {shlex.quote(os.path.relpath(run_of(entry.folder).folder / 'recipe.toml'))}")
    if own is None and overrides:
        raise InputError(f"{entry.name} has no recipe that --set could change.", hint="Name one: --recipe RECIPE")
    return own


def show_export(run: Run) -> None:
    if (run.folder / fidelity.FILE).is_file():
        summary = run.state().summary
        draw(fidelity_document(fidelity.load(run.folder), str(summary.get("folder", "")), int(summary.get("bytes", 0))))
        if not summary:
            return
        folder, request = str(summary["folder"]), launch.read_request(run.folder)
        for command in use_commands(request, folder):
            info(("  " + shlex.join(command), "primary"))
        if request.get("program") == "lmstudio":
            name = request["name"]
            model = lmstudio.model_folder(name)
            listed = f"LM Studio lists the model as {lmstudio.PUBLISHER}/{name}"
            if Path(folder) != model.resolve():
                listed = f"To have LM Studio list the model, move its folder to {one_line(str(model), 200)}"
            info(f"  {listed}. The preset is {name}.")


def _chosen_format(form: str, which: str, options: ExportOptions) -> ExportFormat:
    """Return the format with the options given. Raise ``InputError`` if the options do not suit it."""

    def refuse(option: str, used: str, instead: str) -> NoReturn:
        raise InputError(f"{option} cannot be used with {used}.", hint=f"mlxtune export {instead}")

    precision, lora, base = options.precision, options.lora, options.base
    if not form:
        raise InputError(f"Choose a format: {', '.join(NAMES)}.", hint="For example: mlxtune export mlx last")
    for what, given, known in (("export format", form, NAMES), ("precision", precision, ["", *exports.PRECISIONS])):
        if given not in known:
            raise InputError(f"Unknown {what} {one_line(given, 40)}.", hint=suggest(given, filter(None, known)))
    if lora and options.requantize:
        refuse("--requantize", "--lora", f"mlx {which} --requantize")
    option: FormatOption = "--lora" if lora else "--requantize" if options.requantize else ""
    chosen = find_format(form, option)
    if chosen is None:
        usable = next(one.name for one in FORMATS if one.option == option and one.copy is None)
        refuse(option, form, f"{usable} {which} {option}")
    if precision and chosen.form != "gguf":
        refuse("--precision", chosen.label, f"{form} {which} --lora" if lora else f"llamacpp {which} --precision {precision}")
    if options.smallest and (precision or chosen.form not in exports.SMALLER):
        usable = "llamacpp" if form in ("hf", "peft") else form
        refuse("--smallest", f"--precision {precision}" if precision else chosen.label, f"{usable} {which} --smallest")
    if form == "ollama" and lora != bool(base):
        hint = f"mlxtune export ollama {which} --lora --from llama3.2:3b"
        raise InputError("For Ollama, --lora and --from must be used together.", hint=hint)
    if base and form != "ollama":
        refuse("--from", form, f"ollama {which} --lora --from {base}")
    return chosen


def verify_export(
    which: Which,
    endpoint: Annotated[str, option("--endpoint", "The URL of llama.cpp's server, Ollama, LM Studio, or a similar program.")],
    model: Annotated[str, option("--model", "The model's name at the endpoint. Default: its model, if it serves only one.")] = "",
    export: Annotated[str, option("--export", "The ID of the export that the endpoint serves, if the adapter has several.")] = "",
    recipe: Rows = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Measure the quality lost by export and quantization: an installed program answers the held-out rows, and so does the adapter.

    Exits 1 if the program renders a prompt differently than in training, or if its answers are worse.
    """
    entry = library.find_usable(Path.cwd(), which)
    url = api_url(endpoint)
    served = served_model(url, model)
    found = find_export(tried_exports(entry), served.files, export)
    rows = compared_recipe(entry, recipe, overrides or [])
    id = found.id if found else ""
    with progress_bar() as update:
        run = exports.start_verification(Path.cwd(), entry, url, served.name, id, recipe=rows, progress=update)
    if code := follow_answers(run):
        raise typer.Exit(code)
    result = fidelity.load_verification(run.folder)
    name = form_label(found) if found else ""
    facts = {"run": run.id, "failure": result.failure, **to_json(result)}
    show_result(facts, verification_document(result, name), json=json)
    if result.failure == "prompts":
        hint = "Export the adapter again, and let the program use the exported template."
        raise GateError("The program renders prompts differently than in training.", hint=hint)
    if result.failure:
        hint = "If the program's file is quantized, use one in 16 bits: mlxtune export llamacpp --precision f16"
        raise GateError("The program's answers are worse than the adapter's.", hint=hint)
