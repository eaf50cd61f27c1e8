"""What trains is what the data room lets through: any format, as it was reviewed, and nothing that was held out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data.decisions import keyed
from mlxtune.data.review import Review
from mlxtune.data.source import read_file, read_source
from mlxtune.data.split import record, split
from mlxtune.recipe import load
from mlxtune.training.assemble import Assembled, assemble


def _assembled(workspace: Path, **overrides: object) -> Assembled:
    recipe = load(workspace / "recipes" / "tiny.toml", [f"{key}={value}" for key, value in overrides.items()])
    folder = workspace / "run"
    folder.mkdir(exist_ok=True)
    return assemble(recipe, folder, SimpleNamespace(stopping=False, warn=pytest.fail, emit=lambda *_, **__: None))


def test_rejected_rows_do_not_train_and_edited_ones_train_as_they_are_now(workspace):
    rows = [{"instruction": f"{at * 7919} is what number?", "input": "", "output": str(at)} for at in range(40)]
    (workspace / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = _assembled(workspace)
    source = workspace / "chat.jsonl"
    by_place = {row.place: row for row in read_file(source)}
    first, second = (by_place[row.place] for row in before.shares.train[:2])
    with Review(source) as window:
        window.decide("reject", keyed([first]))
        content = json.loads(json.dumps(second.content))
        content["messages"][-1]["content"] = "edited"
        window.decide("edit", keyed([second]), record=content)
    after = _assembled(workspace)
    trained = {row.id for row in after.loop.train}
    assert first.id not in trained
    assert second.id not in trained
    assert {row.reference for row in after.shares.train} >= {"edited"}
    assert len(trained) == len(before.shares.train) - 1
    assert after.shares.test == before.shares.test


def test_a_run_records_where_rows_stand_and_trains_on_nothing_that_was_sealed(workspace):
    held = _assembled(workspace).shares.test
    recipe = load(workspace / "recipes" / "tiny.toml", [])
    source = read_source(recipe.source)
    assert json.loads((workspace / "chat.split.json").read_text())["splits"]
    record(source, recipe.data, split(source, recipe.data), seal=True)
    other = _assembled(workspace, **{"data.seed": 11, "data.holdout": 0.05})
    assert not {row.hash for row in held} & {row.hash for row in (*other.shares.train, *other.shares.valid)}
    folder = workspace / "chat"
    folder.mkdir()
    lines = recipe.source.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text(lines[held[0].place.line - 1])
    with pytest.raises(DataError, match="about to train stand"):
        _assembled(workspace, **{"data.source": '"../chat"'})


def test_pairs_train_as_they_were_reviewed(workspace):
    rows = [{"prompt": f"{at * 7919} is what?", "chosen": f"It is {at}.", "rejected": f"Who asks {at}?"} for at in range(40)]
    source = workspace / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"data.source": '"../pairs.jsonl"', "method.kind": "dpo"}
    before = _assembled(workspace, **given)
    first, second = before.shares.train[:2]
    with Review(source) as window:
        window.decide("reject", keyed([first]))
        window.decide("swap", keyed([second]))
    after = _assembled(workspace, **given)
    assert {row.id for row in before.loop.train} - {row.id for row in after.loop.train} == {first.id, second.id}
    (swapped,) = (row for row in after.shares.train if row.prompt == second.prompt)
    assert (swapped.chosen, swapped.rejected) == (second.rejected, second.chosen)
    assert swapped.id in {row.id for row in after.loop.train}
