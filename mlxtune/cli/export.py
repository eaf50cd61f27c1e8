"""``adapters fuse``, ``export``, ``push`` and ``pull``: the ways out of the library, and the way in from the hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters import export as exports
from mlxtune.adapters import fidelity, library
from mlxtune.adapters.export import Form
from mlxtune.adapters.fidelity import Fidelity
from mlxtune.cli.adapters import Base, Name, OtherWeights, Which, document
from mlxtune.cli.follow import follow
from mlxtune.cli.screen import Cell, bar, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json, check, fetch
from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line, plural, size
from mlxtune.evaluation.contract import LABELS
from mlxtune.recipe import load
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState

To = Annotated[Path | None, typer.Option("--to", help="The folder to make; exports/… when left out.", show_default=False)]
Rows = Annotated[Path | None, typer.Option("--recipe", help="A recipe whose held-out rows it is held against.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Keep it even if it is not faithful.")]
Repo = Annotated[str, typer.Argument(help="A repository of the hub: owner/name.", show_default=False)]
_AS = ("hf", "gguf", "adapter")


def fuse(
    which: Which = "last",
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Quantise the adapted weights again: smaller, and lossy.")
    ] = False,
    to: To = None,
    recipe: Rows = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Work an adapter into its base: a model folder for MLX, proved to answer as the adapter does."""
    _export(which, "quantized" if requantize else "fused", to, recipe, force, json)


def export(
    which: Which = "last",
    as_: Annotated[str, typer.Option("--as", help="hf: a folder of safetensors; gguf: for llama.cpp; adapter: as it is.")] = "hf",
    to: To = None,
    recipe: Rows = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write an adapter for other programs: worked into its base, or alone with its card."""
    if as_ not in _AS:
        hint = nearest(as_, _AS)
        raise InputError(
            f"There is no form {one_line(as_, 40)}.", mend=f"Did you mean {hint}?" if hint else f"There are {', '.join(_AS)}."
        )
    if as_ != "adapter":
        return _export(which, "gguf" if as_ == "gguf" else "hf", to, recipe, force, json)
    found = library.usable(Path.cwd(), which)
    folder = to or Path(found.name)
    from mlxtune.adapters.card import write_adapter

    files = write_adapter(found, folder)
    if json:
        show_json({"folder": str(folder), "form": "adapter", "files": files})
        return None
    say(("✓ ", "bold success"), f"{found.name} is in {folder}: {', '.join(files)}")
    return None


def push(
    which: Annotated[str, typer.Argument(help="An adapter, or the folder of an export.", show_default=False)],
    repo: Repo,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it.")] = False,
    json: Json = False,
) -> None:
    """Put an adapter or an export on the hub, private unless asked, with its evaluation as a model card."""
    from mlxtune.adapters import hub

    folder = Path(which)
    with bar("asking the hub") as update:
        if (folder / fidelity.FILE).is_file():
            done = hub.push_export(folder, repo, public=public, progress=update)
        else:
            done = hub.push_adapter(library.usable(Path.cwd(), which), repo, public=public, progress=update)
    if json:
        show_json(asdict(done))
        return
    say(
        ("✓ ", "bold success"),
        f"{done.url} has it, {'for you alone' if done.private else 'for everybody'}: {', '.join(done.files)}",
    )
    if public and done.private:
        say(("  ! ", "warning"), "The repository was there already and is private; it stays so.")


def pull(
    repo: Repo,
    name: Name = "",
    base: Base = "",
    revision: Annotated[str, typer.Option("--revision", help="A branch, tag or commit.", show_default=False)] = "",
    other_weights: OtherWeights = False,
    json: Json = False,
) -> None:
    """Fetch an adapter from the hub and let it in, checked as any other."""
    from mlxtune.adapters import hub

    with bar("asking the hub") as update:
        found = hub.pull(Path.cwd(), repo, name, base, revision=revision, other_weights=other_weights, progress=update)
    if json:
        show_json(document(found))
        return
    say(("✓ ", "bold success"), f"{found.name} is here: {found.kind}, rank {found.rank}, for {found.base}.")


def _export(which: str, form: Form, to: Path | None, recipe: Path | None, force: bool, json: bool) -> None:
    found = library.usable(Path.cwd(), which)
    given = load(recipe) if recipe else None
    if given:
        check(given)
    run = exports.start(Path.cwd(), found, form, target=to, recipe=given, force=force, prepare=fetch)
    with bar("loading the model") as update:

        def draw(state: RunState) -> None:
            if state.answering:
                arm, what, done, total = state.answering
                update(f"{arm} answers {plural(total, what)}", done / max(1, total))

        code = follow(run, on_state=draw)
    if (run.folder / fidelity.FILE).is_file():
        proof = fidelity.load(run.folder)
        show_json(_document(run, proof, code)) if json else _table(run, proof)
    if code:
        raise typer.Exit(code)


def _document(run: Run, proof: Fidelity, code: int) -> dict[str, Any]:
    """The export as one JSON value; ``folder`` is null where it was refused."""
    summary = dict(run.state().summary)
    return {
        "run": run.id, "form": proof.form, "folder": summary.get("folder"), "bytes": summary.get("bytes"), "faithful": not proof.why,
        "refused": code == 1, "lost": proof.lost, "verdict": proof.sentence, **asdict(proof),
    }  # fmt: skip


def _table(run: Run, proof: Fidelity) -> None:
    heading(out, "Fidelity", "held-out rows: the base with the adapter, against what was written")
    mark: Cell = ("✗ ", "bold error") if proof.why else ("✓ ", "bold success")
    show("  ", mark, (proof.sentence, "bold"))
    show("")
    head: list[Cell] = [(name, "faint") for name in ("", "logits, mean", "max", "KL, nats a token", "same first choice")]
    rows: list[list[Cell]] = [
        [(name, "muted"), f"{item.mean:.4f}", f"{item.max:.3f}", f"{item.kl:.5f}", f"{100 * item.agree:.1f} %"]
        for name, item in (("what the adapter changed", proof.change), ("what the export lost", proof.loss))
    ]
    columns([head, *rows], right=(1, 2, 3, 4))
    if proof.rates:
        show("")
        body: list[list[Cell]] = [[(name, "faint") for name in ("", "adapter", "export", "broken", "fixed")]]
        for item in proof.rates:
            paired = item.paired
            held = [f"{100 * count / paired.total:.1f} %" for count in (paired.both + paired.broken, paired.both + paired.fixed)]
            body.append([LABELS[item.metric], *held, str(paired.broken), str(paired.fixed)])
        columns(body, right=(1, 2, 3, 4))
    summary = dict(run.state().summary)
    if summary:
        show("")
        show(("  Folder   ", "muted"), str(summary["folder"]), (f"   {size(summary['bytes'])}", "muted"))
