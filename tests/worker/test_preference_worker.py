"""Preference training in a worker: from a parent adapter, killed and resumed, and evaluated against base and parent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process_workers import run_workers_here
from tiny_model import write_chat
from waiting import finish, kill_worker, wait_until

from mlxtune.core.hashing import sha256_file
from mlxtune.evaluation import report
from mlxtune.recipe import load
from mlxtune.runs import events, launch
from mlxtune.runs.registry import Run
from mlxtune.workspace import control

pytestmark = pytest.mark.slow

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
regression = ""
arms = ["base", "tuned"]
"""


def write_pairs(path: Path, count: int, *more: dict) -> None:
    rows = [
        {
            "prompt": f"Question {index}?",
            "chosen": "warm " * (1 + index % 4) + str(index % 7),
            "rejected": "cold " * (1 + index % 3),
        }
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, Run]:
    """A workspace in which the chat recipe was trained."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipes").mkdir()
    write_chat(folder / "chat.jsonl", 40)
    write_pairs(folder / "pairs.jsonl", 90)
    shutil.copytree(tiny, folder / "tiny")
    (folder / "recipes" / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nbase = "../tiny"\n[data]\nsource = "../chat.jsonl"\nmax_tokens = 256\n[adapter]\nrank = 4\nalpha = 8\n'
        "layers = 1\n[training]\nsteps = 4\nbatch_size = 4\nlearning_rate = 1e-2\n"
    )
    (folder / "recipes" / "voice.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        run_workers_here(patch)
        run = launch.start(folder, "train", load(folder / "recipes" / "tiny.toml"))
    finish(run)
    return folder, run


def start(workspace: Path, *overrides: str) -> Run:
    return control.train(workspace, load(workspace / "recipes" / "voice.toml", overrides))


def kill(run: Run, when: Callable[[], bool]) -> None:
    wait_until(when, run, interval=0.001)
    kill_worker(run)
    assert run.status() == "crashed"


@pytest.mark.usefixtures("workers_in_process")
def test_dpo_trains_from_a_parent_and_is_evaluated_against_it(parent):
    workspace, before = parent
    run = start(workspace)
    state = finish(run).state()
    assert state.reference_progress[0] == state.reference_progress[1] > 0
    (warning,) = state.warnings
    assert (warning.code, warning.values) == ("high_learning_rate", {"rate": 5e-3})
    first, last = (dict(item.metrics) for item in (state.validations[0], state.validations[-1]))
    assert "rewards/accuracies" not in first, "the policy is still the reference, so it would measure rounding"
    assert "rewards/accuracies" not in dict(state.steps[0].metrics)
    assert "rewards/accuracies" in last
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["rewards/margins"] > 0
    assert last["kl"] > 0
    assert dict(state.steps[-1].metrics).keys() == last.keys() - {"kl"}
    assert {sample.step for sample in state.samples} >= {0, state.total}

    recipe = run.recipe()
    assert (recipe.adapter.rank, recipe.adapter.layers) == (4, 1)  # the parent's, not the recipe's defaults
    lineage = json.loads((run.adapter / "mlxtune.json").read_text())
    assert lineage["parent"]["sha256"] == sha256_file(before.adapter / "adapters.safetensors")
    assert lineage["parent"]["lineage"]["run"] == before.id

    evaluation = launch.start(workspace, "eval", recipe, {"run": run.id, "adapter": str(run.adapter)})
    finish(evaluation)
    result = report.load(evaluation.folder)
    assert [arm.name for arm in result.arms] == ["base", "parent", "tuned"]
    assert (result.headline.metric, result.headline.second) == ("preference", "tuned")
    assert result.arms[2].margin.value > result.arms[1].margin.value
    assert [(item.first, item.second) for item in result.margins] == [("base", "parent"), ("base", "tuned"), ("parent", "tuned")]
    assert result.verdict.contract is not None


@pytest.mark.exhaustive
def test_run_killed_while_scoring_and_training_ends_bit_identically(parent, home):
    workspace, _ = parent
    write_pairs(workspace / "many.jsonl", 400)
    overrides = ("data.source=../many.jsonl", "adapter.dropout=0.1", "training.samples=0")
    shutil.rmtree(home / "references", ignore_errors=True)  # another grouping may differ in the last bit
    uninterrupted = start(workspace, *overrides)
    finish(uninterrupted)
    shutil.rmtree(home / "references")  # or the second run would reuse all scores

    run = start(workspace, *overrides)
    kill(run, lambda: run.state().reference_progress[0] > 0)
    assert not run.state().steps
    launch.resume(run)
    kill(run, lambda: len(run.state().checkpoints) > 0)
    launch.resume(run)
    state = finish(run).state()
    assert state.resumed_step > 0
    for name in ("adapters.safetensors", "adapter_config.json"):
        assert (run.adapter / name).read_bytes() == (uninterrupted.adapter / name).read_bytes()
    ends = [(item.step, item.loss, item.metrics) for item in state.validations]
    assert ends == [(item.step, item.loss, item.metrics) for item in uninterrupted.state().validations]


@pytest.mark.usefixtures("workers_in_process")
def test_pairs_that_are_too_long_are_skipped_and_counted(parent):
    workspace, _ = parent
    write_pairs(
        workspace / "long.jsonl", 30, *({"prompt": f"{index} " * 99, "chosen": "Yes.", "rejected": "No."} for index in range(3))
    )
    run = start(workspace, "data.source=../long.jsonl", 'data.too_long="skip"', "training.samples=0", "data.holdout=0.1")
    state = finish(run).state()
    (ready,) = (event for event in events.read_all(run.folder) if event["type"] == "data.ready")
    skipped = json.loads((run.folder / "data.json").read_text())["skipped"]
    assert ready["skipped"] == len(skipped) > 0
    assert any(warning.code == "rows_skipped" for warning in state.warnings)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("workers_in_process")
def test_unpaired_rows_train_with_kto(parent):
    workspace, _ = parent
    rows = [
        {"prompt": f"Question {index}?", "completion": f"{'warm' if index % 2 else 'cold'} {index % 7}", "label": bool(index % 2)}
        for index in range(60)
    ]
    (workspace / "unpaired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(
        workspace, "data.source=../unpaired.jsonl", "name=unpaired", "method.kind=kto", "training.batch_size=8", "training.epochs=3"
    )
    last = dict(finish(run).state().validations[-1].metrics)
    assert last["rewards/chosen"] > last["rewards/rejected"]
    evaluation = launch.start(workspace, "eval", run.recipe(), {"run": run.id, "adapter": str(run.adapter)})
    finish(evaluation)
    assert [arm.name for arm in report.load(evaluation.folder).arms] == ["base", "constant", "copier", "parent", "tuned"]
