"""Real training workers on the tiny model: detached from their parent, stopped with a checkpoint, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE, kill_worker, wait_for_state

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.review import ReviewSession, with_keys
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation import report
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import is_locked
from mlxtune.runs.registry import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(workspace: Path) -> Iterator[Path]:
    """The shared workspace. Runs that a failed test leaves behind are stopped, so that they do not block the next test."""
    yield workspace
    for run in registry.list_runs(workspace):
        if is_locked(run.lock):
            kill_worker(run)


def start(workspace: Path, *overrides: str) -> Run:
    return launch.start(workspace, "train", load(workspace / "recipes" / "tiny.toml", overrides))


LONG = ("training.steps=20000", "training.save_every=50", "training.validate_every=20000")  # planning more steps takes seconds


def test_run_trains_and_is_evaluated(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")  # run one stream per core, as users do
    run = start(workspace, "evaluation.regression=")
    wait_for_state(run, lambda state: state.ended)
    state = run.state()
    assert run.status(state) == "finished", (state.error, run.log_tail(20))
    assert state.validations[-1].loss < state.validations[0].loss
    kinds = [event["type"] for event in events.read_all(run.folder)]
    first = [kind for kind in kinds if kind not in ("heartbeat", "warning")]  # a busy machine causes a warning
    assert first[:3] == ["run.started", "model.loaded", "data.ready"]
    assert [event["seq"] for event in events.read_all(run.folder)] == list(range(len(kinds)))

    recipe = run.recipe()
    splits = split(read_source(recipe.source), recipe.data)
    record = json.loads((run.folder / "data.json").read_text())
    assert {row["id"] for row in record["train"]} == {row.id for row in splits.train}
    assert not {row["id"] for row in record["train"]} & set(record["test"])
    assert (run.adapter / "adapters.safetensors").is_file()

    evaluation = launch.start(workspace, "eval", recipe, {"run": run.id, "adapter": str(run.adapter)})
    wait_for_state(evaluation, lambda state: state.ended)
    assert evaluation.status() == "finished", (evaluation.state().error, evaluation.log_tail(20))
    result = report.load(evaluation.folder)
    assert [arm.name for arm in result.arms] == ["base", "tuned"]
    assert result.facts["rows"] == len(splits.test)
    second = launch.start(workspace, "eval", recipe)
    wait_for_state(second, lambda state: state.ended)
    assert report.load(second.folder).arms[0].cached


def test_stopped_run_resumes_from_its_checkpoint(workspace: Path) -> None:
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: state.step >= 3)
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")
    stopped = run.state()
    assert run.status(stopped) == "stopped"
    assert stopped.checkpoints[-1] == stopped.step
    recipe = run.recipe()
    first = split(read_source(recipe.source), recipe.data).train[0]
    with ReviewSession(recipe.source) as reviewer:  # decisions that are made while a run trains do not concern it
        assert reviewer.decide("reject", with_keys([first]))
    launch.resume(run)
    wait_for_state(run, lambda state: state.step >= stopped.step + 3)
    with ReviewSession(recipe.source) as reviewer:
        reviewer.undo()
    with pytest.raises(InputError, match="is already running"):
        launch.resume(run)
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")
    steps = [step.step for step in run.state().steps]
    assert steps == list(range(1, len(steps) + 1))

    weights = workspace / "tiny" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1000] + bytes(1000))
    launch.resume(run)
    wait_for_state(run, lambda state: state.phase == "failed")
    assert run.state().error.startswith("The base's weights differ from those that the run used up to its checkpoint")


@pytest.mark.exhaustive
def test_killed_run_is_crashed_and_resumes_from_its_checkpoint(workspace: Path) -> None:
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: len(state.checkpoints) >= 1)
    kill_worker(run)
    assert run.status() == "crashed"
    saved = run.state().checkpoints[-1]
    launch.resume(run)
    wait_for_state(run, lambda state: state.phase == "running" and state.step > saved)
    registry.stop(run)
    wait_for_state(run, lambda state: state.ended)


@pytest.mark.exhaustive
def test_run_outlives_the_process_group_that_started_it(workspace: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlxtune.recipe import load; from mlxtune.runs import launch; import time\n"
        f"launch.START_TIMEOUT = {PATIENCE}\n"
        f"print(launch.start(Path({str(workspace)!r}), 'train', load(Path({str(workspace / 'recipes/tiny.toml')!r}), {list(LONG)!r})).folder, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    folder = parent.stdout.readline().strip()
    assert folder
    run = Run(Path(folder))
    os.killpg(parent.pid, signal.SIGHUP)  # as when a terminal closes
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    before = run.state().step
    wait_for_state(run, lambda state: state.step > before + 3)
    assert run.status() == "running"
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("data.source=nowhere.jsonl", "There is no data at", marks=pytest.mark.exhaustive),
        pytest.param("data.max_tokens=20", "the prompt fills the window of 20 tokens", marks=pytest.mark.exhaustive),
        pytest.param("model.base=./nothing", "There is no model named", marks=pytest.mark.exhaustive),
        ('adapter.targets=["q_prj"]', "this model has no layer named q_prj"),
    ],
)
def test_invalid_input_fails_the_run_with_exit_code_2(workspace: Path, override: str, message: str) -> None:
    run = start(workspace, override)
    wait_for_state(run, lambda state: state.ended)
    state = run.state()
    assert run.status(state) == "failed"
    assert message in state.error
    assert state.code == 2
    assert "Traceback" not in run.log.read_text()


@pytest.mark.exhaustive
def test_second_run_is_refused_while_the_accelerator_is_in_use(workspace: Path) -> None:
    first = start(workspace, *LONG)
    wait_for_state(first, lambda state: state.step >= 1)
    with pytest.raises(MachineError, match=f"This machine is in use by the training run {first.id} in {workspace}"):
        start(workspace)
    assert [run.id for run in registry.list_runs(workspace)] == [first.id]
    registry.stop(first)
    wait_for_state(first, lambda state: state.ended)
