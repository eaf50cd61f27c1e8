"""``search``: train a recipe with different hyperparameters, and evaluate the best adapter once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.evaluate import show_report
from mlxtune.cli.follow import follow
from mlxtune.cli.options import Json, Overrides, RecipeFile
from mlxtune.cli.output import Cell, info, progress_bar, show, show_json
from mlxtune.cli.tables import print_columns, print_section
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.verdict import signed_points
from mlxtune.present.search import entry_note, sentence, value_text
from mlxtune.recipe import load
from mlxtune.runs.registry import RUN_KINDS, Run
from mlxtune.training.search.importance import Trend
from mlxtune.training.search.leaderboard import Entry, Leaderboard, read_leaderboard
from mlxtune.workspace import control

_STATUS: dict[str, Cell] = {
    "selected": ("✓", "bold success"), "training": ("●", "bold primary"), "failed": ("✗", "bold error"), "pinned": ("◆", "second"),
}  # fmt: skip


def search(
    recipe: RecipeFile,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option("--trials", help="Number of trials, including the recipe itself.", show_default=False)] = 0,
    budget: Annotated[str, typer.Option("--budget", help='Limit for all trials: "30m", "2h", "50Wh", or "500 steps".')] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start the search and return immediately.")] = False,
    json: Json = False,
) -> None:
    """Search for better hyperparameters, and follow the search. Closing the terminal or pressing Ctrl-C does not stop it."""
    options = [f"search.trials={trials}"] if trials else []
    options += [f'search.budget="{budget}"'] if budget else []
    loaded = load(recipe, [*(overrides or []), *options])
    with progress_bar("looking for the model") as update:
        run = control.search(Path.cwd(), loaded, progress=update)
    if detach:
        show_json({"run": run.id, "folder": str(run.folder)}) if json else show(run.id)
        return
    info(("  ", ""), f"{run.id}   ", ("press Ctrl-C to detach; the search continues", "muted"))
    code = follow(run, json=json)
    if code == 0 and run.state().phase == "finished" and not json:
        show_search(run)
    raise typer.Exit(code)


def show_search(run: Run) -> None:
    """Print a search's leaderboard, its decision, and the evaluation of the selected adapter."""
    board = read_leaderboard(run.folder)
    if board is None:
        show("The search has not planned its trials yet.")
        return
    print_section("Leaderboard", f"{board.rows} validation rows")
    headings: list[Cell] = [
        (title, "faint") for title in ("trial", *board.parameters, "steps", "contract", "95% interval", "loss", "")
    ]
    print_columns([["", *headings], *(_row(board, entry) for entry in board.entries)], right=range(1, len(headings) - 2))
    if board.trends:
        print_section("Hyperparameters", "trend of the contract rate over the range in the first rung, with its 95% interval")
        print_columns([_trend_row(trend) for trend in board.trends], right=(1, 3))
    if board.decision:
        show("")
        show("  ", (sentence(board.decision), "bold"))
    if board.outcome:
        _show_outcome(run, board)


def _row(board: Leaderboard, entry: Entry) -> list[Cell]:
    scored = entry.rate is not None
    cells: list[Cell] = [
        f"{entry.rate:.1%}" if entry.rate is not None else "",
        (f"{entry.low:.1%} to {entry.high:.1%}" if scored else "", "muted"),
        f"{entry.loss:.3f}" if entry.loss is not None else "",
        (entry_note(board, entry), "error" if entry.status == "failed" else "muted"),
    ]
    return [
        _STATUS.get(entry.status, ("·", "faint")),
        str(entry.number),
        *map(value_text, entry.values),
        f"{entry.steps:,}",
        *cells,
    ]


def _trend_row(trend: Trend) -> list[Cell]:
    low, change, high = map(signed_points, (trend.low, trend.change, trend.high))
    return [
        (trend.label, "muted"),
        value_text(trend.lowest),
        f"to {value_text(trend.highest)}",
        (f"{change} points", "bold"),
        (f"{low} to {high}", "muted"),
    ]


def _show_outcome(run: Run, board: Leaderboard) -> None:
    """Print the selected trial's rates on validation and held-out rows, and its report."""
    assert board.outcome
    decision, workspace = board.outcome.decision, run.folder.parent.parent
    evaluation = Run(workspace / RUN_KINDS["eval"].folder / board.outcome.evaluation)
    if rate := board.outcome.held_out:
        print_section(f"Trial {decision.selected}", "contract rate")
        limits, held_out = (f"{low:.1%} to {high:.1%}" for low, high in ((decision.low, decision.high), (rate.low, rate.high)))
        note = f"{limits}; optimistic, because it was selected on these rows"
        print_columns([
            [("validation", "muted"), f"{decision.rate:.1%}", (note, "muted")],
            [("adjusted", "muted"), f"{decision.shrunken:.1%}", ("an estimate that accounts for the selection", "muted")],
            [("held-out", "muted"), (f"{rate.share:.1%}", "bold"), (f"{held_out}; evaluated once", "muted")],
        ], right=(1,))  # fmt: skip
        show("")
        show_report(reports.load(evaluation.folder), evaluation.folder)
    show(("  Adapter  ", "muted"), str(Run(workspace / RUN_KINDS["train"].folder / board.outcome.run).adapter))
    show(("  Recipe   ", "muted"), str(workspace / RUN_KINDS["train"].folder / board.outcome.run / "recipe.toml"))


def search_json(run: Run) -> dict[str, Any]:
    """Return a search's leaderboard as JSON."""
    board = read_leaderboard(run.folder)
    return to_json(board) if board else {}
