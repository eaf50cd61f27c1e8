"""``runs``: list, show, attach, stop, resume, remove."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.follow import follow
from mlxtune.cli.screen import Cell, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.text import duration, size
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import Run

app = typer.Typer(help="Runs: list, show, attach, stop, resume, remove.", invoke_without_command=True, no_args_is_help=False)

Which = Annotated[str, typer.Argument(help="A run's id, a unique part of it, a folder, or: last", show_default=False)]

MARKS: dict[str, Cell] = {
    "starting": ("○", "muted"),
    "running": ("●", "bold primary"),
    "quiet": ("!", "bold warning"),
    "finished": ("✓", "bold success"),
    "stopped": ("■", "muted"),
    "failed": ("✗", "bold error"),
    "crashed": ("✗", "bold error"),
}


@app.callback()
def default(context: typer.Context, json: Json = False) -> None:
    """List the runs of this workspace, newest first."""
    if context.invoked_subcommand is None:
        list_runs(json)


@app.command("list")
def list_runs(json: Json = False) -> None:
    """List the runs of this workspace, newest first."""
    runs = registry.all_runs(Path.cwd())
    if json:
        show_json([_facts(run) for run in runs])
        return
    if not runs:
        show("No runs here yet.   ", ("mlxtune train RECIPE", "primary"), " starts one.")
        return
    rows: list[list[Cell]] = []
    for run in runs:
        facts = _facts(run)
        loss = f"{facts['validation']:.3f}" if facts["validation"] is not None else ""
        rows.append(
            [
                MARKS[facts["status"]],
                (run.id, "bold"),
                facts["status"],
                f"{facts['step']:,}/{facts['steps']:,}",
                loss,
                _age(facts["updated"]),
            ]
        )
    columns(
        [["", ("run", "faint"), ("status", "faint"), ("step", "faint"), ("validation", "faint"), ("", "")], *rows], right=(3, 4)
    )


@app.command("show")
def show_run(which: Which = "last", json: Json = False) -> None:
    """Say all about one run."""
    run = registry.find(Path.cwd(), which)
    facts = _facts(run)
    if json:
        show_json(facts | {"warnings": run.state().warnings, "validations": [asdict(item) for item in run.state().validations]})
        return
    state = run.state()
    heading(out, run.id, facts["status"])
    rows: list[list[Cell]] = [
        [("base", "muted"), facts["base"]],
        [("step", "muted"), f"{facts['step']:,} of {facts['steps']:,}"],
        [("validation", "muted"), "  ".join(f"{item.loss:.3f} at {item.step:,}" for item in state.validations[-4:]) or "none yet"],
        [("memory", "muted"), f"peak {size(state.peak)}" if state.peak else "not known yet"],
        [("took", "muted"), duration(state.updated - state.started)],
        [("checkpoints", "muted"), ", ".join(map(str, state.checkpoints[-3:])) or "none"],
        [("folder", "muted"), str(run.folder)],
    ]
    if state.error:
        rows.append([("error", "bold error"), f"{state.error} {state.mend}".strip()])
    if facts["status"] == "crashed":
        rows.append([("log ends", "bold error"), " ".join(run.log_tail(2))])
        rows.append([("mend", "muted"), f"mlxtune runs resume {run.id}"])
    columns(rows)


@app.command()
def attach(which: Which = "last", json: Json = False) -> None:
    """Follow a run from its first event; Ctrl-C lets go of it again."""
    raise typer.Exit(follow(registry.find(Path.cwd(), which), json=json))


@app.command()
def stop(which: Which = "last", json: Json = False) -> None:
    """Finish the step, save a checkpoint, end. The run can be resumed."""
    run = registry.find(Path.cwd(), which)
    registry.stop(run)
    while run.status() in ("running", "quiet"):
        time.sleep(0.1)
    state = run.state()
    if json:
        show_json(_facts(run))
        return
    kept = f"Checkpoint {state.checkpoints[-1]} is kept." if state.checkpoints else "Nothing was saved: it had not trained yet."
    show(f"{run.id} stopped at step {state.step:,}. {kept}")


@app.command()
def resume(which: Which = "last", detach: Annotated[bool, typer.Option("--detach")] = False, json: Json = False) -> None:
    """Go on from the newest whole checkpoint and follow."""
    run = launch.resume(registry.find(Path.cwd(), which))
    if detach:
        show_json({"run": run.id}) if json else show(run.id)
        return
    raise typer.Exit(follow(run, json=json))


@app.command()
def remove(which: Which, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a run's folder, its checkpoints and its adapter."""
    run = registry.find(Path.cwd(), which)
    if not yes and not typer.confirm(f"Delete {run.id} with its checkpoints and adapter?", err=True):
        raise typer.Exit(1)
    registry.remove(run)
    say(("✓ ", "bold success"), f"{run.id} is gone.")


def _facts(run: Run) -> dict[str, Any]:
    state = run.state()
    best = state.validations[-1].loss if state.validations else None
    return {
        "run": run.id,
        "status": run.status(state),
        "base": state.base,
        "step": state.step,
        "steps": state.total,
        "validation": best,
        "updated": state.updated,
        "folder": str(run.folder),
    }


def _age(moment: float) -> str:
    seconds = time.time() - moment
    return (
        ""
        if not moment
        else "now"
        if seconds < 60
        else f"{duration(seconds)} ago"
        if seconds < 86400
        else f"{seconds / 86400:.0f} d ago"
    )
