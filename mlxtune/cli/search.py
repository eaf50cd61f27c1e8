"""``search``: train a recipe with different hyperparameters, and evaluate the best adapter once."""

from pathlib import Path
from typing import Annotated

from mlxtune.cli.evaluate import show_report
from mlxtune.cli.follow import announce, follow_and_show
from mlxtune.cli.options import Detach, Json, Overrides, RecipeFile, option
from mlxtune.cli.output import draw, progress_bar, show
from mlxtune.evaluation import report as reports
from mlxtune.present.blocks import facts
from mlxtune.present.search import search_document
from mlxtune.recipe import load
from mlxtune.runs.registry import RUN_KINDS, Run
from mlxtune.training.search.leaderboard import read_leaderboard
from mlxtune.workspace import control


def search(
    recipe: RecipeFile,
    overrides: Overrides = None,
    trials: Annotated[int, option("--trials", "Number of trials.", show_default=False)] = 0,
    budget: Annotated[str, option("--budget", 'Limit for all trials: "30m", "2h", "50Wh", or "500 steps".')] = "",
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Search for better hyperparameters, and follow the search. Closing the terminal or pressing Ctrl-C does not stop it."""
    options = [f"search.trials={trials}"] if trials else []
    options += [f'search.budget="{budget}"'] if budget else []
    loaded = load(recipe, [*(overrides or []), *options])
    with progress_bar() as update:
        run = control.search(Path.cwd(), loaded, progress=update)
    if announce(run, "search", detach=detach, json=json):
        follow_and_show(run, show_search, json=json)


def show_search(run: Run) -> None:
    board = read_leaderboard(run.folder)
    if board is None:
        if not run.state().ended:
            show("The search has not planned its trials yet.")
        return
    draw(search_document(board))
    if outcome := board.outcome:
        workspace = run.folder.parent.parent
        if outcome.held_out:
            evaluation = workspace / RUN_KINDS["eval"].folder / outcome.evaluation
            show("")
            show_report(reports.load(evaluation), evaluation)
        trained = Run(workspace / RUN_KINDS["train"].folder / outcome.run)
        draw((facts([("adapter", str(trained.adapter)), ("recipe", str(trained.folder / "recipe.toml"))]),))
