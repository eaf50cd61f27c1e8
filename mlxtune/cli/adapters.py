"""``adapters``: list, show, compare, rename, tag, import, remove and restore."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters import compare as comparing
from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry, Score
from mlxtune.cli.evaluate import contrasted
from mlxtune.cli.screen import Cell, bar, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.text import one_line, size
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.verdict import HEADLINE

app = typer.Typer(
    help="Adapters: list, show, compare, rename, tag, import, fuse, export, push, pull, remove, restore.",
    invoke_without_command=True,
    no_args_is_help=False,
)

Which = Annotated[
    str, typer.Argument(help="An adapter's name, a unique part of it, its run or folder, or: last", show_default=False)
]
Name = Annotated[str, typer.Option("--name", help="What to call it here.", show_default=False)]
Base = Annotated[str, typer.Option("--base", help="The model it belongs to: an alias, a folder or a hub id.", show_default=False)]
OtherWeights = Annotated[
    bool, typer.Option("--other-weights", help="Take it for other weights of the same shapes, without its scores.")
]
_VERDICTS: dict[str, Cell] = {
    "better": ("better", "bold success"),
    "worse": ("worse", "bold error"),
    "cannot tell": ("cannot tell", "bold"),
}


@app.callback()
def default(context: typer.Context, json: Json = False) -> None:
    """List the adapters of this workspace, newest first."""
    if context.invoked_subcommand is None:
        list_adapters(json)


@app.command("list")
def list_adapters(json: Json = False) -> None:
    """List the adapters of this workspace, newest first."""
    found = library.all_adapters(Path.cwd())
    if json:
        show_json([document(item) for item in found])
        return
    if not found:
        show("No adapters here yet.   ", ("mlxtune train RECIPE", "primary"), " makes one.")
        return
    head: list[Cell] = [(name, "faint") for name in ("", "adapter", "base", "kind", "size", "verdict", "contract", "tags")]
    columns([head, *map(_row, found)], right=(4,))
    for item in found:
        if item.score and item.score.reservation:
            told = f"{item.name} is better, but {one_line(item.score.reservation)}. It is not to be promoted."
            show(("  ! ", "bold warning"), told)


@app.command("show")
def show_adapter(which: Which = "last", json: Json = False) -> None:
    """Say all about one adapter."""
    found = library.find(Path.cwd(), which)
    below = library.children(Path.cwd(), found)
    if json:
        show_json(document(found) | {"children": [item.name for item in below]})
        return
    heading(out, found.name, found.kind)
    rows: list[list[Cell]] = [[(name, "muted"), one_line(value)] for name, value in comparing.facts(found).items() if value]
    if below:
        rows.append([("children", "muted"), ", ".join(item.name for item in below)])
    if found.problem:
        rows = [[("problem", "bold error"), one_line(found.problem)]]
    columns([*rows, [("folder", "muted"), str(found.folder)]])
    if found.score:
        show("")
        _scored(found.score)
    elif not found.problem:
        show("")
        subject = found.run if found.key.startswith("runs/") else f"RECIPE --adapter {found.name}"
        say("Not measured yet.  ", (f"mlxtune eval {subject}", "primary"))


@app.command("compare")
def compare_adapters(first: Which, second: Which, json: Json = False) -> None:
    """Two adapters beside each other, and which answers better where both were measured on the same rows."""
    one, two = (library.usable(Path.cwd(), which) for which in (first, second))
    found = comparing.compare(Path.cwd(), one, two)
    if json:
        show_json({**asdict(found), "first": document(one), "second": document(two)})
        return
    heading(out, "Adapters", "what differs is bold")
    head: list[Cell] = ["", (one.name, "bold primary"), (two.name, "bold primary")]
    body: list[list[Cell]] = []
    for fact in found.facts:
        style = "muted" if fact.same else "bold"
        if fact.first or fact.second:
            body.append([(fact.name, "muted"), (one_line(fact.first, 48) or "–", style), (one_line(fact.second, 48) or "–", style)])
    columns([head, *body])
    show("")
    if found.contrast is None:
        show("  ", ("· ", "muted"), (f"Not held against each other: {found.why}", "muted"))
        return
    show("  ", (found.contrast.verdict, "bold"))
    show("")
    contrasted(found.contrast)


@app.command("rename")
def rename_adapter(which: Which, name: Annotated[str, typer.Argument(help="Its new name.")], json: Json = False) -> None:
    """Call an adapter something else; its files stay where they are."""
    before = library.find(Path.cwd(), which)
    _done(library.rename(Path.cwd(), before.key, name), f"{before.name} is called {name} now.", json)


@app.command("tag")
def tag_adapter(
    which: Which,
    words: Annotated[list[str] | None, typer.Argument(help="Tags to give it.", show_default=False)] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="A tag to take from it.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Give an adapter tags, or take them away."""
    found = library.tag(Path.cwd(), which, words or [], drop or [])
    _done(found, f"{found.name}: {', '.join(found.tags) or 'no tags'}", json)


@app.command("import")
def import_adapter(
    folder: Annotated[Path, typer.Argument(help="A folder of mlx-lm's or PEFT's layout.", show_default=False)],
    name: Name = "",
    base: Base = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Let an adapter in from elsewhere, once it was checked: header, shapes against the base, numbers."""
    from mlxtune.adapters.importing import import_adapter as let_in

    with bar("checking the adapter") as update:
        found = let_in(Path.cwd(), folder, name, base, other_weights=other_weights, progress=update)
    _done(found, f"{found.name} is here: {found.kind}, rank {found.rank}, for {found.base}.", json)


@app.command("remove")
def remove_adapter(which: Which, json: Json = False) -> None:
    """Take an adapter away; restore brings it back."""
    below = library.children(Path.cwd(), library.find(Path.cwd(), which))
    gone = library.remove(Path.cwd(), which)
    if json:
        show_json({"name": gone.name, "key": gone.key, "trash": str(gone.trash)})
        return
    say(("✓ ", "bold success"), f"{gone.name} is gone.   ", (f"mlxtune adapters restore {gone.name}", "primary"))
    if below:
        say(("  ! ", "warning"), f"{', '.join(item.name for item in below)} went on from it, and is measured against it.")


@app.command("restore")
def restore_adapter(
    which: Annotated[str, typer.Argument(help="Its name, or: last", show_default=False)] = "last",
    list_: Annotated[bool, typer.Option("--list", help="Say what can be brought back.")] = False,
    json: Json = False,
) -> None:
    """Bring a removed adapter back to where it was."""
    if not list_:
        found = library.restore(Path.cwd(), which)
        _done(found, f"{found.name} is back in {found.key}.", json)
        return
    there = library.removed(Path.cwd())
    if json:
        show_json([asdict(item) | {"trash": str(item.trash)} for item in there])
        return
    for item in there:
        show(f"{item.name}  ", (time.strftime("%Y-%m-%d %H:%M", time.localtime(item.t)), "muted"))


def document(found: AdapterEntry) -> dict[str, Any]:
    """An adapter as one JSON value."""
    value = asdict(found) | {"folder": str(found.folder)}
    if found.score:
        value["score"] |= {"folder": str(found.score.folder) if found.score.folder else None}
    return value


def _done(found: AdapterEntry, text: str, json: bool) -> None:
    show_json(document(found)) if json else say(("✓ ", "bold success"), text)


def _row(found: AdapterEntry) -> list[Cell]:
    if found.problem:
        return [("✗", "bold error"), (found.name, "bold"), (one_line(found.problem, 90), "error"), "", "", "", "", ""]
    scored = found.score
    rates = scored.rate() if scored else None
    contract = f"{100 * rates[0].share:.0f} → {100 * rates[1].share:.0f} %" if rates else ""
    word: Cell = _VERDICTS.get(scored.word, scored.word) if scored else ("not measured", "muted")
    mark: Cell = ("✓", "bold success") if scored and scored.word == "better" else ("·", "muted")
    if scored and scored.reservation:
        word, mark = ("better, but", "bold warning"), ("!", "bold warning")
    kind = f"{found.kind} {found.rank}"
    tags = " ".join(found.tags)
    return [mark, (found.name, "bold"), one_line(found.base, 40), kind, size(found.size), word, contract, (tags, "muted")]


def _scored(found: Score) -> None:
    heading(out, "Verdict", f"{found.rows} held-out rows")
    show("  ", (found.verdict, "bold"))
    if found.reservation:
        show(("  ! ", "bold warning"), f"It is not to be promoted: {one_line(found.reservation)}.")
    if found.folder is None:
        show("  ", ("Its maker says so; nothing here can verify it.", "warning"))
    before = {rate.metric: rate for rate in found.before}
    rows: list[list[Cell]] = [["", (found.rival, "faint"), ("tuned", "faint"), ""]]
    for rate in found.after:
        if rate.metric in before:
            limits = f"{100 * rate.low:.0f}–{100 * rate.high:.0f}"
            bold = "bold primary" if rate.metric == HEADLINE else "primary"
            was = (f"{100 * before[rate.metric].share:.1f} %", "muted")
            rows.append(
                [LABELS.get(rate.metric, one_line(rate.metric, 30)), was, (f"{100 * rate.share:.1f} %", bold), (limits, "muted")]
            )
    columns(rows, right=(1, 2))
