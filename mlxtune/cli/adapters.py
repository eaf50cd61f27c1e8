"""``adapters``: list, show, compare, rename, tag, import, push, pull, remove, and restore adapters."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.library import compare
from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import draw, info, progress_bar, show, show_json, show_none, show_result
from mlxtune.core.json_fields import to_json
from mlxtune.present.adapter import AdapterDetail, adapter_document, adapters_table, comparison_document
from mlxtune.present.card import adapter_card, export_card
from mlxtune.present.verdict import caveat_text

app = typer.Typer(help="Show, compare, rename, tag, import, push, pull, remove, and restore adapters.", invoke_without_command=True)

Which = Annotated[str, argument("An adapter's name, a unique part of the name, its run or folder, or last.")]
Name = Annotated[str, option("--name", "The adapter's name.")]
Base = Annotated[str, option("--base", "The adapter's base model: an alias, a folder, or a Hub ID.")]
OtherWeights = Annotated[bool, option("--other-weights", "Accept other weights of the same shapes, without the adapter's scores.")]


@app.callback()
def default(context: typer.Context, json: Json = False) -> None:
    """List the adapters of this workspace, newest first."""
    if context.invoked_subcommand:
        return
    entries = library.all_adapters(Path.cwd())
    if json:
        show_json([document(entry) for entry in entries])
        return
    if not entries:
        show_none("adapters", "Train one with: mlxtune train RECIPE")
        return
    draw((adapters_table(entries),))
    for entry in entries:
        if entry.score and entry.score.caveat:
            show(("  ! ", "bold warning"), f"{entry.name} is better but not recommended: {caveat_text(entry.score.caveat)}.")


@app.command("show")
def show_adapter(which: Which = "last", json: Json = False) -> None:
    """Show an adapter's properties and its evaluation."""
    entry = library.find(Path.cwd(), which)
    children = tuple(child.name for child in library.children(Path.cwd(), entry))
    show_json(document(entry) | {"children": children}) if json else draw(adapter_document(AdapterDetail.read(entry, children)))


@app.command("compare")
def compare_adapters(first: Which, second: Which, json: Json = False) -> None:
    """Compare two adapters, and their evaluations if both used the same rows."""
    one, two = (library.find_usable(Path.cwd(), which) for which in (first, second))
    comparison = compare(Path.cwd(), one, two)
    facts = {"first": document(one), "second": document(two), "same_weights": len(set(comparison.hashes)) == 1}
    facts |= {"contrast": to_json(comparison.contrast), "unevaluated": comparison.unevaluated, "error": comparison.error}
    show_result(facts, comparison_document(comparison), json=json)


@app.command("rename")
def rename_adapter(which: Which, name: Annotated[str, argument("The new name.")], json: Json = False) -> None:
    """Rename an adapter. Its files stay where they are."""
    before = library.find(Path.cwd(), which)
    _report(library.rename(Path.cwd(), before.key, name), f"Renamed {before.name} to {name}.", json)


@app.command("tag")
def tag_adapter(
    which: Which,
    tags: Annotated[list[str] | None, argument("Tags to add.")] = None,
    drop: Annotated[list[str] | None, option("--drop", "Remove a tag.")] = None,
    json: Json = False,
) -> None:
    """Add or remove an adapter's tags."""
    entry = library.tag(Path.cwd(), which, tags or [], drop or [])
    _report(entry, f"{entry.name}: {', '.join(entry.tags) or 'no tags'}", json)


@app.command("import")
def import_adapter(
    folder: Annotated[Path, argument("A folder in mlx-lm's or PEFT's layout.")],
    name: Name = "",
    base: Base = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Import an adapter after checking its header, its shapes against the base, and its values."""
    from mlxtune.adapters.importers import importer

    with progress_bar("checking the adapter") as update:
        entry = importer.import_adapter(Path.cwd(), folder, name, base, other_weights=other_weights, progress=update)
    _report_import(entry, json)


@app.command("remove")
def remove_adapter(which: Which, json: Json = False) -> None:
    """Move an adapter to the trash. Use 'mlxtune adapters restore' to bring it back."""
    children = library.children(Path.cwd(), library.find(Path.cwd(), which))
    item = library.remove(Path.cwd(), which)
    if json:
        show_json({"name": item.name, "key": item.key, "trash": str(item.trash)})
        return
    info(("✓ ", "bold success"), f"Removed {item.name}.   ", (f"mlxtune adapters restore {item.name}", "primary"))
    if children:
        info(("  ! ", "warning"), f"{', '.join(child.name for child in children)} started from it.")


@app.command("restore")
def restore_adapter(
    which: Annotated[str, argument("The adapter's name, or last.")] = "last",
    list_: Annotated[bool, option("--list", "List removed adapters.")] = False,
    json: Json = False,
) -> None:
    """Restore a removed adapter."""
    if not list_:
        entry = library.restore(Path.cwd(), which)
        _report(entry, f"Restored {entry.name} to {entry.key}.", json)
        return
    items = library.removed(Path.cwd())
    if json:
        show_json([to_json(item) | {"trash": str(item.trash)} for item in items])
        return
    for item in items:
        show(f"{item.name}  ", (time.strftime("%Y-%m-%d %H:%M", time.localtime(item.t)), "muted"))


def document(entry: AdapterEntry) -> dict[str, Any]:
    value: dict[str, Any] = to_json(entry) | {"folder": str(entry.folder)}
    if entry.score:
        value["score"] |= {"folder": str(entry.score.folder) if entry.score.folder else None}
    return value


def _report_import(entry: AdapterEntry, json: bool) -> None:
    _report(entry, f"Imported {entry.name}: {entry.kind}, rank {entry.rank}, for {entry.base}.", json)


def _report(entry: AdapterEntry, text: str, json: bool) -> None:
    show_json(document(entry)) if json else info(("✓ ", "bold success"), text)


Repo = Annotated[str, argument("The repository, OWNER/NAME.")]


@app.command()
def push(
    which: Annotated[str, argument("An adapter, or an export's folder.")],
    repo: Repo,
    public: Annotated[bool, option("--public", "Make it public.")] = False,
    json: Json = False,
) -> None:
    """Push an adapter or an export with a model card to the Hub. The repository is private by default."""
    from mlxtune.adapters import hub

    folder = Path(which)
    with progress_bar("contacting the Hub") as update:
        if (folder / fidelity.FILE).is_file():
            result = hub.push_export(folder, repo, export_card, public=public, progress=update)
        else:
            result = hub.push_adapter(library.find_usable(Path.cwd(), which), repo, adapter_card, public=public, progress=update)
    if json:
        show_json(to_json(result))
        return
    visibility = "private" if result.private else "public"
    info(("✓ ", "bold success"), f"Pushed to {result.url} ({visibility}): {', '.join(result.files)}")
    if public and result.private:
        info(("  ! ", "warning"), "The repository already existed and remains private.")


@app.command()
def pull(
    repo: Repo,
    name: Name = "",
    base: Base = "",
    revision: Annotated[str, option("--revision", "Branch, tag, commit.")] = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Download an adapter from the Hub and import it, with the same checks as 'adapters import'."""
    from mlxtune.adapters import hub

    with progress_bar("contacting the Hub") as update:
        entry = hub.pull(Path.cwd(), repo, name, base, revision=revision, other_weights=other_weights, progress=update)
    _report_import(entry, json)
