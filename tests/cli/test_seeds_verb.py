"""Train one recipe with several seeds and evaluate them together, on the tiny model."""

import json

import pytest

from mlxtune.evaluation.verify import verify
from mlxtune.recipe import load
from mlxtune.runs import registry
from mlxtune.training.variants import trained_seeds

pytestmark = pytest.mark.slow


def changes(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.usefixtures("workers_in_process", "few_off_task_prompts")
def test_seeds_are_trained_once_and_one_is_recommended(ok, cli, cwd, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    short = ("training.steps=2", "training.epochs=0", "training.samples=0", "evaluation.regression=")
    assert cli("train", "recipes/tiny.toml", *changes(*short)).code == 0
    how = changes('evaluation.arms=["base", "tuned"]', "evaluation.max_tokens=4")
    result = ok("eval", "recipes/tiny.toml", *changes(*short), *how, "--seeds", "2")
    assert "Seed 7 was trained before" in result.err
    assert [run.recipe().training.seed for run in registry.list_runs(workspace)] == [8, 7]
    assert "recommended by the validation rows alone" in result.out
    assert "this recipe" in result.out
    folder = registry.list_runs(workspace, "eval")[0].folder
    assert verify(folder) == []
    assert [seed["seed"] for seed in json.loads((folder / "report.json").read_text())["seeds"]["seeds"]] == [7, 8]

    again = cli("eval", "last", "--seeds", "2", "--json", *how)
    assert (again.code, again.err.count("was trained before")) == (0, 2), again.err
    assert again.json["facts"]["holdout"]["look"] == 1  # all seeds and the repeated evaluation are one look
    with (workspace / "chat.jsonl").open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "new"}, {"role": "assistant", "content": "row"}]}) + "\n")
    other = load(workspace / "recipes" / "tiny.toml", short)
    assert trained_seeds(workspace, other) == {}  # other rows are not the same recipe
