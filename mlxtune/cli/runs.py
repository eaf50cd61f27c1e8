"""``runs``: list, show, attach to, stop, resume, and remove runs of every kind."""

import time
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.adapters.export import start as exports
from mlxtune.cli.evaluate import show_report
from mlxtune.cli.export import show_export
from mlxtune.cli.follow import announce, follow_and_show
from mlxtune.cli.generate import show_generation
from mlxtune.cli.options import Detach, Json, Online, Yes, argument, option
from mlxtune.cli.output import draw, info, print_columns, progress_bar, show, show_json, show_none
from mlxtune.cli.search import show_search
from mlxtune.cli.train import show_adapter
from mlxtune.core.errors import InputError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import ago, plural, suggest
from mlxtune.evaluation import report as reports
from mlxtune.present.run import run_document
from mlxtune.present.terminal import Part
from mlxtune.present.words import WORDS
from mlxtune.runs import registry
from mlxtune.runs.events import EventReader, read_all
from mlxtune.runs.locks import file_lock
from mlxtune.runs.metrics import FORMATS, TRACKERS, metric_rows, open_sink
from mlxtune.runs.registry import RUN_KINDS, Run
from mlxtune.runs.state import RunState
from mlxtune.training.search.leaderboard import read_leaderboard
from mlxtune.workspace import control

POLL = 2.0  # seconds

app = typer.Typer(help="List, show, attach to, stop, resume, export, and remove runs.", invoke_without_command=True)

RunName = Annotated[str, argument("A run ID, a unique part of it, a folder, or last (the active one or newest training run).")]


@app.callback()
def default(
    context: typer.Context,
    kind: Annotated[str, option("--kind", f"One kind: {', '.join(RUN_KINDS)}.", metavar="KIND")] = "",
    json: Json = False,
) -> None:
    """List the runs of this workspace, newest first."""
    if context.invoked_subcommand:
        return
    if kind and kind not in RUN_KINDS:
        raise InputError(f"Unknown run kind: {kind}.", hint=suggest(kind, RUN_KINDS, "Use one of:"))
    runs = registry.list_runs(Path.cwd(), kind or None)
    if json:
        show_json([_record(run, run.state()) for run in runs])
        return
    if not runs:
        item = RUN_KINDS[kind or "train"]
        show_none(item.nouns, item.create_hint, anywhere=bool(kind))
        return
    headings: list[Part] = [(title, "faint") for title in ("run", "kind", "status", "step", "validation")]
    rows: list[list[Part]] = [["", *headings, ""]]
    for run in runs:
        record = _record(run, run.state())
        label = WORDS.statuses[record["status"]]
        step = f"{record['arm']} {record['step']:,}/{record['steps']:,}".strip() if record["steps"] else ""
        loss = f"{record['validation']:.3f}" if record["validation"] is not None else ""
        age = ago(time.time() - record["updated"]) if record["updated"] else ""
        row: list[Part] = [(run.id, "bold"), record["kind"], label.text, step, loss, age]
        rows.append([(label.glyph, f"bold {label.style}"), *row])
    print_columns(rows, right=(4, 5))


@app.command("show")
def show_run(name: RunName = "last", json: Json = False) -> None:
    """Show a run's details."""
    run = registry.find_run(Path.cwd(), name, None)
    state = run.state()
    record = _record(run, state)
    if json:
        board = {"search": to_json(read_leaderboard(run.folder)) or {}} if run.kind == "search" else {}
        lists = {"warnings": list(map(asdict, state.warnings)), "validations": list(map(asdict, state.validations))}
        show_json({**record, **board, **lists})
        return
    draw(run_document(run, state, record["status"], time.time()))
    _show_result(run)


@app.command()
def attach(name: RunName = "last", json: Json = False) -> None:
    """Follow a run from its first event. Press Ctrl-C to detach."""
    follow_and_show(registry.find_run(Path.cwd(), name, None), _show_result, json=json)


@app.command()
def stop(name: RunName = "last", json: Json = False) -> None:
    """Stop a run after its current step. A training run or search saves a checkpoint; an evaluation keeps its answers."""
    run = registry.find_run(Path.cwd(), name, None)
    registry.stop(run)
    text = "Waiting for the current step to finish. Ctrl-C stops waiting; the run still stops."
    control.wait_until_stopped(run, lambda: info(("● ", "primary"), text))
    state = run.state()
    if json:
        show_json(_record(run, state))
        return
    if state.phase == "finished":
        show(f"{run.id} finished before it was stopped.")
        return
    effect = control.stop_effect(run.kind, state)
    show(f"{run.id} stopped: {WORDS.stop_effects[effect]}.")
    if effect != control.StopEffect.NOTHING:
        show("  Continue it: ", (f"mlxtune runs resume {run.id}", "primary"))


@app.command()
def resume(name: RunName = "last", detach: Detach = False, json: Json = False) -> None:
    """Resume a run from its newest checkpoint and follow it."""
    run = registry.find_run(Path.cwd(), name, None)
    with progress_bar() as update:
        control.resume(run, progress=update)
    if announce(run, detach=detach, json=json):
        follow_and_show(run, _show_result, json=json)


@app.command()
def export(
    name: RunName = "last",
    to: Annotated[str, option("--to", f"Format: {', '.join(FORMATS)}.", metavar="FORMAT")] = "csv",
    output: Annotated[Path | None, option("--output", "-o", "Output path.")] = None,
    live: Annotated[bool, option("--live", "Follow the run.")] = False,
    online: Online = False,
) -> None:
    """Export the metrics of a training run, or of all trials of a search."""
    run = registry.find_run(Path.cwd(), name, "train" if name == "last" else None)
    if run.kind not in ("train", "search"):
        raise InputError(f"{run.id} has no per-step metrics.", hint="Export a training run or a search.")
    project = run.recipe().name
    own = run.folder / f"track-{to}.lock"
    is_continued = live and to != "csv" and own.exists()  # the tracker already has what was before the run was resumed
    resumed = [event["t"] for event in read_all(run.folder) if event["type"] == "run.resumed"] if is_continued else []
    since = max(resumed, default=0.0)
    seen: set[tuple[object, ...]] = set()
    readers: dict[Path, EventReader] = {}
    count = 0
    one = file_lock(own, busy=f"{run.id} is already being exported.", timeout=10) if live else nullcontext()
    with one, closing(open_sink(to, run.id, project, output, online=online, live=live)) as sink:
        while True:
            ended = not live or run.state().ended or run.status() == "crashed"
            for folder in [run.folder] if run.kind == "train" else sorted((run.folder / "trials").glob("*")):
                title = run.id if run.kind == "train" else f"{run.id}-trial-{folder.name}"
                for row in metric_rows(title, readers.setdefault(folder, EventReader(folder)).read()):
                    key = (row.run, row.step, *row.values)
                    if key not in seen and row.t >= since:  # steps after a checkpoint are trained again after a crash
                        sink.log(row)
                        count += 1
                    seen.add(key)
            if ended:
                break
            time.sleep(POLL)
    if not count:
        raise InputError(f"{run.id} has no steps yet.")
    target = str(output or (f"{run.id}.csv" if to == "csv" else to if to == "tensorboard" else Path.cwd()))
    place = f"the {TRACKERS[to]} project {project}" if to in TRACKERS else target
    commands = {
        "tensorboard": f"tensorboard --logdir {target}",
        "trackio": f"trackio show --project {project}",
        "wandb": f"wandb sync {target}/wandb/offline-run-*",
        "swanlab": f"swanlab sync {target}/swanlog/run-*",
    }
    command = "" if online else commands.get(to, "")
    show(("✓ ", "bold success"), f"{plural(count, 'row')} exported to {place}.   ", (command, "primary"))


@app.command()
def remove(name: RunName, yes: Yes = False) -> None:
    """Delete a run's folder, including its checkpoints, adapter, or results."""
    run = registry.find_run(Path.cwd(), name, None)
    contents = "its checkpoints and adapter" if run.kind == "train" else "its results"
    if not yes and not typer.confirm(f"Delete {run.id}, including {contents}?", err=True):
        raise typer.Exit(1)
    exports.remove_unfinished(run)
    registry.remove(run)
    info(("✓ ", "bold success"), f"Deleted {run.id}.")


def _show_result(run: Run) -> None:
    if run.kind == "train":
        show_adapter(run)
    elif run.kind == "search":
        show_search(run)
    elif run.kind == "export":
        show_export(run)
    elif run.kind == "generate" and run.state().phase == "finished":
        show_generation(run)
    elif run.kind == "eval" and (run.folder / reports.FILE).is_file():
        show("")
        show_report(reports.load(run.folder), run.folder)


def _record(run: Run, state: RunState) -> dict[str, Any]:
    arm, done, total = "", state.step, state.total
    if run.kind != "train":
        one = state.answering
        arm, done, total = (one.arm, one.done, one.total) if one else ("", 0, 0)
        if state.arms:
            arm, (done, total) = list(state.arms.items())[-1]
    return {
        "run": run.id,
        "kind": run.kind,
        "status": run.status(state),
        "base": state.base,
        "arm": arm,
        "step": done,
        "steps": total,
        "validation": state.validations[-1].loss if state.validations else None,
        "updated": state.updated,
        "folder": str(run.folder),
    }
