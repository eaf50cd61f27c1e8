"""``adapters push`` and ``adapters pull``."""

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.adapters.export import fidelity
from mlxtune.cli.adapters import Base, Name, OtherWeights, report_import
from mlxtune.cli.options import Json
from mlxtune.cli.output import info, progress_bar, show_json
from mlxtune.core.json_fields import to_json
from mlxtune.present.card import adapter_card, export_card

Repo = Annotated[str, typer.Argument(help="A Hub repository in the form OWNER/NAME.")]


def push(
    which: Annotated[str, typer.Argument(help="An adapter, or an export's folder.")],
    repo: Repo,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
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


def pull(
    repo: Repo,
    name: Name = "",
    base: Base = "",
    revision: Annotated[str, typer.Option("--revision", help="A branch, tag, or commit.")] = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Download an adapter from the Hub and import it, with the same checks as 'adapters import'."""
    from mlxtune.adapters import hub

    with progress_bar("contacting the Hub") as update:
        entry = hub.pull(Path.cwd(), repo, name, base, revision=revision, other_weights=other_weights, progress=update)
    report_import(entry, json)
