"""Training uses reviewed rows in every format and never uses held-out rows."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from keyed_rows import with_keys

from mlxtune.core.errors import DataError
from mlxtune.data.review import ReviewSession
from mlxtune.data.source import read_file, read_source
from mlxtune.data.split import record_splits, split
from mlxtune.recipe import load
from mlxtune.training.setup import TrainingSetup, prepare


def _assembled(workspace: Path, **overrides: object) -> TrainingSetup:
    recipe = load(workspace / "recipes" / "tiny.toml", [f"{key}={value}" for key, value in overrides.items()])
    folder = Path(tempfile.mkdtemp(dir=workspace))
    return prepare(
        recipe, folder, SimpleNamespace(stopping=False, warn=lambda code, **values: pytest.fail(code), emit=lambda *_, **__: None)
    )


def test_rejected_rows_are_skipped_and_edits_are_used(workspace):
    rows = [{"instruction": f"{at * 7919} is what number?", "input": "", "output": str(at)} for at in range(40)]
    (workspace / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = _assembled(workspace)
    source = workspace / "chat.jsonl"
    by_place = {row.location: row for row in read_file(source)}
    first, second = (by_place[row.location] for row in before.base.splits.train[:2])
    with ReviewSession(source) as window:
        window.decide("reject", with_keys([first]))
        content = json.loads(json.dumps(second.content))
        content["messages"][-1]["content"] = "edited"
        window.decide("edit", with_keys([second]), record=content)
    after = _assembled(workspace)
    trained = {row.id for row in after.loop.train}
    assert first.id not in trained
    assert second.id not in trained
    assert {row.reference for row in after.base.splits.train} >= {"edited"}
    assert len(trained) == len(before.base.splits.train) - 1
    assert after.base.splits.test == before.base.splits.test


def test_sealed_rows_are_never_trained_on(workspace):
    sealed = _assembled(workspace).base.splits.test
    recipe = load(workspace / "recipes" / "tiny.toml", [])
    source = read_source(recipe.source)
    assert json.loads((workspace / "chat.split.json").read_text())["splits"]
    record_splits(source, recipe.data, split(source, recipe.data), seal=True)
    other = _assembled(workspace, **{"data.seed": 11, "data.holdout": 0.05})
    assert not {row.hash for row in sealed} & {row.hash for row in (*other.base.splits.train, *other.base.splits.valid)}
    folder = workspace / "chat"
    folder.mkdir()
    lines = recipe.source.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text(lines[sealed[0].location.line - 1])
    with pytest.raises(DataError, match="training rows are also in the test split"):
        _assembled(workspace, **{"data.source": '"../chat"'})


def test_pairs_train_as_reviewed(workspace):
    rows = [{"prompt": f"{at * 7919} is what?", "chosen": f"It is {at}.", "rejected": f"Who asks {at}?"} for at in range(40)]
    source = workspace / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data.source": '"../pairs.jsonl"', "method.kind": "dpo", "training.learning_rate": 5e-5}
    with pytest.raises(pytest.fail.Exception, match="high_learning_rate"):
        _assembled(workspace, **given | {"training.learning_rate": 1e-3})
    before = _assembled(workspace, **given)
    first, second = before.base.splits.train[:2]
    with ReviewSession(source) as window:
        window.decide("reject", with_keys([first]))
        window.decide("swap", with_keys([second]))
    after = _assembled(workspace, **given)
    assert {row.id for row in before.loop.train} - {row.id for row in after.loop.train} == {first.id, second.id}
    (swapped,) = (row for row in after.base.splits.train if row.prompt == second.prompt)
    assert (swapped.chosen, swapped.rejected) == (second.rejected, second.chosen)
    assert swapped.id in {row.id for row in after.loop.train}
