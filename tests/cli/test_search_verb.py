"""``search``, with the real worker and the tiny model, and ``runs show`` of a search."""

import re
import shutil

import pytest

pytestmark = pytest.mark.slow

SETTINGS = ("training.epochs=0", "training.steps=4", "evaluation.regression=")


def test_a_search_ends_with_a_leaderboard_and_one_evaluation(ok, cli, workspace):
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    result = ok("search", "recipes/tiny.toml", "--trials", "2", "--set", "search.rank=[4]", *overrides)
    assert "Leaderboard" in result.out
    assert "2 trials cannot be told apart." in result.out
    assert "evaluated once" in result.out
    (search,) = cli("runs", "--kind", "search", "--json").json
    shown = cli("runs", "show", search["folder"], "--json").json
    assert (workspace / "runs" / shown["search"]["outcome"]["run"] / "adapter" / "adapters.safetensors").is_file()
    assert "Leaderboard" in cli("runs", "show", search["folder"]).out
    assert re.search(r"step +4\n", cli("runs", "show", "last").out)
    assert len(cli("runs", "--kind", "eval", "--json").json) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", "1"), "A search needs at least 2 trials."),
        (("--budget", "soon"), 'search.budget must be empty, a time ("30m", "2h")'),
        (("--budget", "0m"), "Invalid budget: 0m."),
        (("--set", "evaluation.forbid=[]"), "the recipe has no contract"),
        (("--set", "search.learning_rate=[2e-3, 1e-3]"), "the smaller one first"),
    ],
)
def test_bad_input(refused, workspace, arguments, message):
    refused(("search", "recipes/tiny.toml", *arguments), message)
    assert not (workspace / "searches").exists()


def test_a_search_without_a_plan_is_shown(cli, workspace):
    folder = workspace / "searches" / "20261126-0900-tiny"
    folder.mkdir(parents=True)
    shutil.copy(workspace / "recipes" / "tiny.toml", folder / "recipe.toml")
    assert "has not planned its trials yet" in cli("runs", "show", str(folder)).out
