"""Preference training as a user runs it: on top of an adapter, killed anywhere, measured against base and parent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_training_worker import wait_for
from tiny_model import write_chat

from mlxtune.core.errors import RecipeError
from mlxtune.core.hashing import sha256_file
from mlxtune.evaluation import report
from mlxtune.recipe import load
from mlxtune.runs import events, launch
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState

RECIPE = """
name = "voice"
[model]
base = "../tiny"
[data]
source = "../pairs.jsonl"
max_tokens = 200
[method]
kind = "dpo"
loss = ["sigmoid", "sft"]
weights = [1.0, 0.1]
[adapter]
parent = "tiny"
dropout = 0.2
[training]
epochs = 1
batch_tokens = 1500
learning_rate = 5e-3
validate_every = 10
save_every = 5
samples = 4
[evaluation]
forbid = ["Northpeak"]
max_tokens = 8
"""


def write_pairs(path: Path, count: int, *more: dict) -> None:
    rows = [
        {"prompt": f"Question {at}?", "chosen": "warm " * (1 + at % 4) + str(at % 7), "rejected": "cold " * (1 + at % 3)}
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, Run]:
    """A workspace in which the chat recipe has been trained."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipes").mkdir()
    write_chat(folder / "chat.jsonl", 40)
    write_pairs(folder / "pairs.jsonl", 150)
    shutil.copytree(tiny, folder / "tiny")
    (folder / "recipes" / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nbase = "../tiny"\n[data]\nsource = "../chat.jsonl"\nmax_tokens = 256\n[adapter]\nrank = 4\nalpha = 8\n'
        "layers = 1\n[training]\nsteps = 4\nbatch_size = 4\nlearning_rate = 1e-2\n"
    )
    (folder / "recipes" / "voice.toml").write_text(RECIPE)
    run = launch.start(folder, "train", load(folder / "recipes" / "tiny.toml"))
    finish(run)
    return folder, run


def finish(run: Run) -> RunState:
    wait_for(run, lambda state: state.ended)
    assert run.status() == "finished", (run.state().error, run.log_tail(20))
    return run.state()


def start(workspace: Path, *overrides: str) -> Run:
    return launch.start(workspace, "train", load(workspace / "recipes" / "voice.toml", overrides))


def kill(run: Run, when: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not when():
        assert time.monotonic() < give_up, run.log_tail(20)
        time.sleep(0.001)
    os.kill(run.state().pid, signal.SIGKILL)
    while run.status() != "crashed":
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_pairs_train_on_top_of_a_parent_and_are_measured_against_it(parent: tuple[Path, Run]) -> None:
    workspace, before = parent
    run = start(workspace)
    state = finish(run)
    assert state.reference[0] == state.reference[1] > 0
    assert not state.warnings
    first, last = (dict(item.metrics) for item in (state.validations[0], state.validations[-1]))
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["rewards/margins"] > 0
    assert last["kl"] > 0
    assert dict(state.steps[-1].metrics).keys() == first.keys() - {"kl"}
    assert {sample.step for sample in state.samples} >= {0, state.total}

    recipe = run.recipe()
    assert (recipe.adapter.rank, recipe.adapter.layers) == (4, 1)  # the parent's, not what the recipe would default to
    lineage = json.loads((run.adapter / "mlxtune.json").read_text())
    assert lineage["parent"]["sha256"] == sha256_file(before.adapter / "adapters.safetensors")
    assert lineage["parent"]["lineage"]["run"] == before.id

    evaluation = launch.start(workspace, "eval", recipe, {"run": run.id, "adapter": str(run.adapter)})
    finish(evaluation)
    found = report.load(evaluation.folder)
    assert [arm.arm for arm in found.arms] == ["base", "parent", "tuned"]
    assert found.headline is not None
    assert (found.headline.metric, found.headline.second) == ("preference", "tuned")
    assert found.arms[2].margin is not None
    assert found.arms[2].margin.value > found.arms[1].margin.value
    assert [(item.first, item.second) for item in found.margins] == [("base", "parent"), ("base", "tuned"), ("parent", "tuned")]
    assert "contract" in found.verdict


def test_a_run_that_is_killed_while_it_scores_and_while_it_trains_ends_in_the_same_bytes(
    parent: tuple[Path, Run], home: Path
) -> None:
    workspace, _ = parent
    write_pairs(workspace / "many.jsonl", 400)
    given = ("data.source=../many.jsonl", "adapter.dropout=0.1", "training.samples=0")
    shutil.rmtree(home / "references", ignore_errors=True)  # what others grouped otherwise may differ in its last bit
    whole = start(workspace, *given)
    finish(whole)
    shutil.rmtree(home / "references")  # or the second run would know everything already

    run = start(workspace, *given)
    kill(run, lambda: run.state().reference[0] > 0)
    assert not run.state().steps
    launch.resume(run)
    kill(run, lambda: len(run.state().checkpoints) > 0)
    launch.resume(run)
    state = finish(run)
    assert state.resumed > 0
    for name in ("adapters.safetensors", "adapter_config.json"):
        assert (run.adapter / name).read_bytes() == (whole.adapter / name).read_bytes()
    ends = [(item.step, item.loss, item.metrics) for item in state.validations]
    assert ends == [(item.step, item.loss, item.metrics) for item in whole.state().validations]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Same?", "chosen": "Yes.", "rejected": " Yes. \n"}, "say the same"),
        ({"prompt": "Empty?", "chosen": "", "rejected": "No."}, "chosen"),
        ({"prompt": "Long? " * 60, "chosen": "Yes.", "rejected": "No."}, "fills the window of 200"),
        ({"prompt": "Deep?", "chosen": "x" * 300, "rejected": "x" * 301}, "same up to the window"),
    ],
)
def test_bad_pairs_are_refused_by_row(parent: tuple[Path, Run], row: dict, said: str) -> None:
    workspace, _ = parent
    write_pairs(workspace / "bad.jsonl", 30, row)
    run = start(workspace, "data.source=../bad.jsonl")
    wait_for(run, lambda state: state.ended)
    state = run.state()
    assert state.code == 2
    assert "bad.jsonl, line 31" in state.error
    assert said in state.error


def test_pairs_that_are_too_long_can_be_left_out_and_are_counted(parent: tuple[Path, Run]) -> None:
    workspace, _ = parent
    write_pairs(workspace / "long.jsonl", 30, *({"prompt": f"{at} " * 99, "chosen": "Yes.", "rejected": "No."} for at in range(3)))
    run = start(workspace, "data.source=../long.jsonl", 'data.too_long="skip"', "training.samples=0", "data.holdout=0.1")
    state = finish(run)
    (ready,) = (event for event in events.read_all(run.folder) if event["type"] == "data.ready")
    skipped = json.loads((run.folder / "data.json").read_text())["skipped"]
    assert ready["skipped"] == len(skipped) > 0
    assert any("left out" in warning for warning in state.warnings)


def test_a_parent_that_is_not_there_is_said_before_anything_starts(parent: tuple[Path, Run]) -> None:
    workspace, _ = parent
    count = len(list((workspace / "runs").iterdir()))
    with pytest.raises(RecipeError, match="there is no adapter nobody"):
        start(workspace, "adapter.parent=nobody")
    assert len(list((workspace / "runs").iterdir())) == count


def test_unpaired_rows_train_with_kto(parent: tuple[Path, Run]) -> None:
    workspace, _ = parent
    rows = [
        {"prompt": f"Question {at}?", "completion": f"{'warm' if at % 2 else 'cold'} {at % 7}", "label": bool(at % 2)}
        for at in range(60)
    ]
    (workspace / "unpaired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(
        workspace, "data.source=../unpaired.jsonl", "name=unpaired", "method.kind=kto", "training.batch_size=8", "training.epochs=3"
    )
    last = dict(finish(run).validations[-1].metrics)
    assert last["rewards/chosen"] > last["rewards/rejected"]
    evaluation = launch.start(workspace, "eval", run.recipe(), {"run": run.id, "adapter": str(run.adapter)})
    finish(evaluation)
    assert [arm.arm for arm in report.load(evaluation.folder).arms] == ["base", "parent", "tuned"]
