"""Real training workers on the tiny model: detached from their parent, stopped with a checkpoint, and killed."""

import json
from pathlib import Path

import pytest
from in_process_workers import run_workers_here
from keyed_rows import with_keys
from waiting import finish, wait_for_state

from mlxtune.adapters import library
from mlxtune.core.errors import InputError
from mlxtune.data.review import ReviewSession
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.evaluation import history, report
from mlxtune.evaluation.holdout import ledger
from mlxtune.models.resolve import resolve
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run
from mlxtune.workspace import control

pytestmark = pytest.mark.slow


def start(workspace: Path, *overrides: str) -> Run:
    return launch.start(workspace, "train", load(workspace / "recipes" / "tiny.toml", overrides))


LONG = ("training.steps=20000", "training.save_every=50", "training.validate_every=20000")  # planning more steps takes seconds


def test_run_trains_and_is_evaluated(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")  # run one stream per core, as users do
    run = start(workspace, "evaluation.regression=")
    state = finish(run).state()
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
    result = report.load(finish(evaluation).folder)
    assert [arm.name for arm in result.arms] == ["base", "constant", "copier", "tuned"]
    assert result.facts["rows"] == len(splits.test)
    run_workers_here(monkeypatch)
    step = run.checkpoints[0]
    second = control.evaluate(workspace, recipe, registry.find_run(workspace, f"tiny@{step}"))
    result = report.load(second.folder)
    assert result.arms[0].cached
    facts = result.facts
    assert (facts["run"], facts["adapter_step"]) == (f"{run.id}@{step}", step)
    assert facts["costs"]["tuned"]["tokens"] > 0
    validation = control.validate(workspace, run)
    facts = report.load(validation.folder).facts
    assert facts["row_ids"] == [row.id for row in splits.valid]
    assert ledger.looks(workspace, [row.id for row in (*splits.valid, *splits.test)]) == 2
    assert validation.folder not in [one.run.folder for one in history.evaluations(workspace)]
    assert library.find(workspace, f"tiny@{step}").score.folder == second.folder  # type: ignore[union-attr]
    assert library.find(workspace, run.id).score.folder == evaluation.folder  # type: ignore[union-attr]


def test_without_a_contract_samples_say_how_answers_ended(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_workers_here(monkeypatch)
    run = start(workspace, "evaluation.forbid=[]", "training.steps=2", "training.validate_every=2")
    wait_for_state(run, lambda state: state.ended)
    state = run.state()
    assert run.status(state) == "finished", (state.error, run.log_tail(20))
    assert not run.recipe().has_contract
    assert {sample.outcome for sample in state.samples} in ({"ended"}, {"cut_off"}, {"ended", "cut_off"})


def test_stopped_run_resumes_from_its_checkpoint(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: state.step >= 3)
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")
    stopped = run.state()
    assert run.status(stopped) == "stopped"
    assert stopped.checkpoints[-1] == stopped.step
    entry = library.find_usable(workspace, "last")
    assert (entry.name, entry.step, entry.method) == (f"{run.id}@{stopped.step}", stopped.step, "sft")
    assert entry.base_hash == resolve(str(workspace / "tiny")).fingerprint
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
    run_workers_here(monkeypatch)
    launch.resume(run)
    assert run.state().phase == "failed"
    assert run.state().error.startswith("The base's weights differ from those that the run used up to its checkpoint")


@pytest.mark.usefixtures("workers_in_process")
def test_invalid_input_fails_the_run_with_exit_code_2(workspace: Path) -> None:
    run = start(workspace, 'adapter.targets=["q_prj"]')
    state = run.state()
    assert (run.status(state), state.code) == ("failed", 2)
    assert "this model has no layer named q_prj" in state.error
    assert "Traceback" not in run.log.read_text()


@pytest.mark.usefixtures("workers_in_process")
def test_rows_without_a_prompt_train_without_validation_rows(workspace: Path) -> None:
    (workspace / "texts.jsonl").write_text("".join(f'{{"text": "Note {at}: the hut is open."}}\n' for at in range(12)))
    recipe = load(workspace / "recipes" / "tiny.toml", ["data.source=../texts.jsonl", "data.validation=0", "training.steps=2"])
    run = control.train(workspace, recipe)
    finish(run)
