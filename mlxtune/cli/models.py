"""``models``: list known base models, search the Hub, and download models."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import out, print_columns, progress_bar, show, show_json
from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line, plural, size
from mlxtune.models import catalog, hub
from mlxtune.models.catalog import CatalogModel
from mlxtune.models.hub import HubModel
from mlxtune.models.resolve import is_local, resolve
from mlxtune.planning.machine import Machine, this_machine
from mlxtune.present.labels import GLYPHS, outcome_mark, thinking_default
from mlxtune.present.terminal import Part, print_heading
from mlxtune.present.words import WORDS

app = typer.Typer(help="List, search, and download base models.", invoke_without_command=True)

_COLUMNS = ("model", "", "download", "context", "memory", "use", "thinking", "tools", "tested", "license")
CHECKED = "tested here: weights (the real ones), template (and the layers in a tiny model), or layers (only those)"


@app.callback()
def models(
    context: typer.Context, search: Annotated[str, option("--search", "Search the Hub.", metavar="TEXT")] = "", json: Json = False
) -> None:
    """List known base models with their license, their size, and whether they can be trained on this machine."""
    if context.invoked_subcommand:
        return
    machine = this_machine()
    text = search.lower()
    known = [model for model in catalog.models() if text in f"{model.id} {model.name} {model.license}".lower()]
    if json:
        hub_models = [asdict(model) for model in _search_hub(search)]
        show_json({"known": [_document(model, machine) for model in known], "hub": hub_models})
        return
    if known:
        print_heading(out, "Known models", f"memory to train a LoRA on 4 rows of 512 tokens; limit {size(machine.limit)}")
        head: list[Part] = [(name, "faint") for name in _COLUMNS]
        shown = print_columns([head, *(_row(model, machine) for model in known)], right=(2,), required=5)
        if shown < len(_COLUMNS):
            show("    ", (f"A wider terminal also shows: {', '.join(_COLUMNS[shown:])}.", "muted"))
        if shown > _COLUMNS.index("tested"):
            show("    ", (CHECKED, "muted"))
        conditions = dict.fromkeys((model.condition, model.license) for model in known if model.condition)
        for condition, licenses in grouped(conditions).items():
            show("    ", (f"{', '.join(licenses)}: {condition}", "muted"))
        show("")
    if search:
        results = _search_hub(search)
        count = plural(len(results), "other MLX model")
        print_heading(out, "On the Hub", f"{count} matching “{one_line(search, 30)}”, most downloaded first")
        print_columns([_hub_row(model) for model in results], right=(2,))
        show("")
    show("  Download one: ", ("mlxtune models pull ID", "primary"), ("   or set model.base in a recipe", "muted"))


@app.command("pull")
def pull(id: Annotated[str, argument("The model's Hub ID (OWNER/NAME), or a bundled model's name.")], json: Json = False) -> None:
    """Download a base model, or only the files that changed. Interrupted downloads resume, and every file's hash is verified."""
    with progress_bar("contacting the Hub") as update:
        if "/" in id:
            hub.pull(id, update)
        source = resolve(id, progress=update)
    if json:
        show_json({"id": id, "folder": str(source.folder), "fingerprint": source.fingerprint})
        return
    show(("✓ ", "bold success"), one_line(id, 80), "   ", (str(source.folder), "muted"))
    model = catalog.find(id)
    if model and model.condition:
        show("  ", (f"{model.license}: {model.condition}. {model.terms}", "muted"))


def _search_hub(text: str) -> list[HubModel]:
    if not text:
        return []
    with progress_bar("searching the Hub"):
        return [model for model in hub.search(text) if catalog.find(model.id) is None]


def _document(model: CatalogModel, machine: Machine) -> dict[str, Any]:
    names = (
        "id", "name", "license", "commercial", "condition", "terms", "source", "context", "thinking", "tools", "checked", "recipes",
    )  # fmt: skip
    outcome, need = model.fit(machine)
    return {name: getattr(model, name) for name in names} | {
        "parameters": model.shapes.parameters,
        "bytes": model.hub_nbytes,
        "here": is_local(model.id),
        "fit": {"word": outcome, "need": need, "limit": machine.limit},
    }


def _row(model: CatalogModel, machine: Machine) -> list[Part]:
    outcome, need = model.fit(machine)
    mark = outcome_mark(outcome)
    return [
        (model.id, "bold"),
        ("✓", "success") if is_local(model.id) else " ",
        size(model.hub_nbytes),
        (f"{model.context // 1024}k", "muted"),
        (f"{GLYPHS[mark]} {size(need)}", mark),
        WORDS.commercial[model.commercial],
        (thinking_default(model), "muted"),
        ("tools" if model.tools else "no tools", "muted"),
        (model.checked, "muted"),
        (model.license, "muted"),
    ]


def _hub_row(model: HubModel) -> list[Part]:
    return [
        (one_line(model.id, 70), "bold"),
        (one_line(model.license, 24) or "no license listed", "muted"),
        (f"{model.downloads:,}", "muted"),
        ("gated", "warning") if model.gated else "",
    ]
