"""Train one recipe with several seeds and evaluate them together, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.evaluation.verify import verify
from mlxtune.runs import registry

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("workers_in_process")
def test_seeds_are_trained_once_and_one_is_recommended(cli, cwd: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    short = (
        "--set",
        "training.steps=2",
        "--set",
        "training.epochs=0",
        "--set",
        "training.samples=0",
        "--set",
        "evaluation.regression=",
    )
    assert cli("train", "recipes/tiny.toml", *short).code == 0
    assert "only one seed" in cli("eval", "last", "--seeds").err
    result = cli("train", "recipes/tiny.toml", *short, "--seeds", "2")
    assert result.code == 0, result.err
    assert "Seed 7 was trained before" in result.err
    assert [run.recipe().training.seed for run in registry.list_runs(workspace)] == [8, 7]
    again = cli("train", "recipes/tiny.toml", *short, "--seeds", "2")
    assert again.err.count("was trained before") == 2

    result = cli("eval", "last", "--seeds", "--set", 'evaluation.arms=["base", "tuned"]', "--set", "evaluation.max_tokens=4")
    assert result.code == 0, result.err
    assert "recommended by the validation rows alone" in result.out
    assert "this recipe" in result.out
    folder = registry.list_runs(workspace, "eval")[0].folder
    assert verify(folder) == []
    assert [seed["seed"] for seed in json.loads((folder / "report.json").read_text())["seeds"]["seeds"]] == [7, 8]
    with (workspace / "chat.jsonl").open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "new"}, {"role": "assistant", "content": "row"}]}) + "\n")
    assert "one seed" in cli("eval", "last", "--seeds").err  # other rows are not the same recipe


def test_seeds_cannot_be_detached(cli, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    result = cli("train", "recipes/tiny.toml", "--seeds", "2", "--detach")
    assert result.code == 2
    assert "cannot be combined" in result.err
    assert not (workspace / "runs").exists()
