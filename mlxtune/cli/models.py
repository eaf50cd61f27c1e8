"""``models``: known bases, what they may be used for and whether they train here; the hub's; and a download."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from mlxtune.cli.screen import Cell, bar, columns, heading, out, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.text import one_line, plural, size
from mlxtune.models import catalog, hub
from mlxtune.models.catalog import Base
from mlxtune.models.hub import Found
from mlxtune.models.resolve import here, resolve
from mlxtune.planning.machine import Machine, machine

app = typer.Typer(help="Bases: known ones, the hub's, and a download.", invoke_without_command=True)

_COMMERCIAL: dict[str, Cell] = {
    "yes": "commercial use",
    "conditions": ("on conditions", "warning"),
    "no": ("not commercial", "error"),
}
_FITS = {"go": ("✓ ", "success"), "warn": ("! ", "warning"), "refuse": ("✗ ", "error")}


@app.callback()
def models(
    context: typer.Context,
    search: Annotated[str, typer.Option("--search", help="Look on the hub, too.", metavar="TEXT", show_default=False)] = "",
    json: Json = False,
) -> None:
    """List known bases: licence, size, and whether they train on this machine."""
    if context.invoked_subcommand is not None:
        return
    here_now, known = machine(), [base for base in catalog.bases() if _matches(base, search)]
    if json:
        show_json({"known": [_entry(base, here_now) for base in known], "hub": [asdict(one) for one in _found(search)]})
        return
    if known:
        heading(out, "Known bases", f"trains: LoRA, 4 rows of 512 tokens, in {size(here_now.limit)}")
        columns([_row(base, here_now) for base in known], right=(2,))
        for condition, bases in _conditions(known).items():
            show("    ", (f"{', '.join(dict.fromkeys(bases))}: {condition}", "muted"))
        show("")
    if search:
        found = _found(search)
        heading(
            out, "On the hub", f"{plural(len(found), 'other model')} for MLX with “{one_line(search, 30)}”, most downloaded first"
        )
        columns(
            [
                [(one_line(one.id, 70), "bold"), (one_line(one.licence, 24) or "no licence named", "muted"), (f"{one.downloads:,}", "muted"),
                 ("gated", "warning") if one.gated else ""]
                for one in found
            ], right=(2,),
        )  # fmt: skip
        show("")
    show("  Get one: ", ("mlxtune models pull ID", "primary"), ("   or name it in a recipe: model.base", "muted"))


@app.command("pull")
def pull(
    id: Annotated[
        str, typer.Argument(help="The model's id on the hub, OWNER/NAME, or that of the bundled one.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Download a base, or what is new of it. What was cut short goes on; every file is checked by its hash."""
    with bar("asking the hub") as update:
        if "/" in id:
            hub.pull(id, update)
        source = resolve(id, progress=update)
    if json:
        show_json({"id": id, "folder": str(source.folder), "fingerprint": source.fingerprint})
        return
    show(("✓ ", "bold success"), one_line(id, 80), "   ", (str(source.folder), "muted"))
    base = catalog.find(id)
    if base and base.condition:
        show("  ", (f"{base.licence}: {base.condition}. {base.terms}", "muted"))


def _found(text: str) -> list[Found]:
    """What the hub has of ``text`` beside the catalogue."""
    if not text:
        return []
    with bar("asking the hub"):
        return [one for one in hub.search(text) if catalog.find(one.id) is None]


def _matches(base: Base, text: str) -> bool:
    return text.lower() in f"{base.id} {base.name} {base.licence}".lower()


def _entry(base: Base, machine: Machine) -> dict[str, Any]:
    """A base as JSON."""
    kept = ("id", "name", "licence", "commercial", "condition", "terms", "context", "recipes")
    return {name: getattr(base, name) for name in kept} | {
        "parameters": base.shapes.parameters, "bytes": base.size, "here": here(base.id), "fit": asdict(base.fit(machine)),
    }  # fmt: skip


def _row(base: Base, machine: Machine) -> list[Cell]:
    fit = base.fit(machine)
    mark, style = _FITS[fit.word]
    return [
        (base.id, "bold"), (("✓", "success") if here(base.id) else " "), size(base.size), (_context(base.context), "muted"),
        (f"{mark}{size(fit.need)}", style), (base.licence, "muted"), _COMMERCIAL[base.commercial],
    ]  # fmt: skip


def _context(tokens: int) -> str:
    return f"{tokens // 1024}k tokens"


def _conditions(bases: list[Base]) -> dict[str, list[str]]:
    """Conditions, with the licences that set them."""
    found: dict[str, list[str]] = {}
    for base in bases:
        if base.condition:
            found.setdefault(base.condition, []).append(base.licence)
    return found
