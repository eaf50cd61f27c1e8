"""``adapters fuse``, ``adapters export``, ``adapters push``, and ``adapters pull``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters import library
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.fidelity import Fidelity
from mlxtune.adapters.export.start import ExportForm
from mlxtune.cli.adapters import Base, Name, OtherWeights, Which, report_import
from mlxtune.cli.follow import follow
from mlxtune.cli.options import Json
from mlxtune.cli.output import Cell, info, out, progress_bar, show, show_json
from mlxtune.cli.tables import print_columns, print_heading, print_table
from mlxtune.cli.train import fetch
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, plural, size, suggest
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.render.comparison_table import comparison_table
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.recipe import load
from mlxtune.runs.state import RunState
from mlxtune.training.start import check_recipe

To = Annotated[Path | None, typer.Option("--to", help="The folder to create. Default: a folder in exports/.", show_default=False)]
Rows = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe whose held-out rows are used to check the export.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Keep the export even if it is not faithful to the adapter.")]
Repo = Annotated[str, typer.Argument(help="A Hub repository in the form OWNER/NAME.", show_default=False)]
_FORMS = ("hf", "gguf", "adapter")


def fuse(
    which: Which = "last",
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantize the adapted weights again. Smaller, but lossy.")
    ] = False,
    to: To = None,
    recipe: Rows = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fuse an adapter into its base, write an MLX model folder, and check it against the adapter."""
    _export(which, "quantized" if requantize else "fused", to, recipe, force, json)


def export(
    which: Which = "last",
    form: Annotated[
        str, typer.Option("--as", help="hf: a folder with safetensors; gguf: for llama.cpp; adapter: only the adapter.")
    ] = "hf",
    to: To = None,
    recipe: Rows = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export an adapter for other programs, either fused into its base or on its own with a model card."""
    if form not in _FORMS:
        raise InputError(f"Unknown export format {one_line(form, 40)}.", hint=suggest(form, _FORMS))
    if form != "adapter":
        _export(which, "gguf" if form == "gguf" else "hf", to, recipe, force, json)
        return
    from mlxtune.adapters.card import write_adapter

    entry = library.find_usable(Path.cwd(), which)
    folder = to or Path(entry.name)
    names = write_adapter(entry, folder)
    if json:
        show_json({"folder": str(folder), "form": "adapter", "files": names})
    else:
        info(("✓ ", "bold success"), f"Wrote {entry.name} to {folder}: {', '.join(names)}")


def push(
    which: Annotated[str, typer.Argument(help="An adapter, or an export's folder.", show_default=False)],
    repo: Repo,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
    json: Json = False,
) -> None:
    """Push an adapter or an export with a model card to the Hub. The repository is private by default."""
    from mlxtune.adapters import hub

    folder = Path(which)
    with progress_bar("contacting the Hub") as update:
        if (folder / fidelity.FILE).is_file():
            result = hub.push_export(folder, repo, public=public, progress=update)
        else:
            result = hub.push_adapter(library.find_usable(Path.cwd(), which), repo, public=public, progress=update)
    if json:
        show_json(to_json(result))
        return
    visibility = "private" if result.private else "public"
    info(("✓ ", "bold success"), f"Pushed to {result.url} ({visibility}): {', '.join(result.files)}")
    if public and result.private:
        info(("  ! ", "warning"), "The repository already existed and remains private.")


def pull(
    repo: Repo,
    name: Name = "",
    base: Base = "",
    revision: Annotated[str, typer.Option("--revision", help="A branch, tag, or commit.", show_default=False)] = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Download an adapter from the Hub and import it, with the same checks as 'adapters import'."""
    from mlxtune.adapters import hub

    with progress_bar("contacting the Hub") as update:
        entry = hub.pull(Path.cwd(), repo, name, base, revision=revision, other_weights=other_weights, progress=update)
    report_import(entry, json)


def _export(which: str, form: ExportForm, to: Path | None, recipe_file: Path | None, force: bool, json: bool) -> None:
    entry = library.find_usable(Path.cwd(), which)
    recipe = load(recipe_file) if recipe_file else None
    if recipe:
        check_recipe(recipe)
    run = exports.start(Path.cwd(), entry, form, target=to, recipe=recipe, force=force, prepare=fetch)
    with progress_bar("loading the model") as update:

        def draw(state: RunState) -> None:
            if state.current_arm:
                arm, kind, done, total = state.current_arm
                update(f"{arm} answers {plural(total, kind)}", done / max(1, total))

        code = follow(run, on_state=draw)
    if (run.folder / fidelity.FILE).is_file():
        proof, summary = fidelity.load(run.folder), dict(run.state().summary)
        show_json(_document(run.id, proof, summary, code)) if json else _print_fidelity(proof, summary)
    if code:
        raise typer.Exit(code)


def _document(run_id: str, proof: Fidelity, summary: Mapping[str, Any], code: int) -> dict[str, Any]:
    """Return the export as a JSON object. ``folder`` is null if the export was rejected."""
    return {
        "run": run_id, "form": proof.form, "folder": summary.get("folder"), "bytes": summary.get("bytes"),
        "faithful": not proof.failure, "refused": code == 1, "lost": proof.lost_share, "verdict": proof.sentence,
        **to_json(proof),
    }  # fmt: skip


def _print_fidelity(proof: Fidelity, summary: Mapping[str, Any]) -> None:
    print_heading(out, "Fidelity", "base with adapter versus export, on held-out rows")
    show("  ", ("✗ ", "bold error") if proof.failure else ("✓ ", "bold success"), (proof.sentence, "bold"))
    show("")
    head: list[Cell] = [(name, "faint") for name in ("", "logits, mean", "max", "KL, nats per token", "same top token")]
    rows: list[list[Cell]] = [
        [(name, "muted"), f"{item.mean:.4f}", f"{item.max:.3f}", f"{item.kl:.5f}", f"{100 * item.agree:.1f}%"]
        for name, item in (("adapter's change", proof.change), ("export's loss", proof.loss))
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
