"""The training loop: epochs, batch-independent objective, bit-identical resume, and every way to end."""

import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import pytest
from listener import Listener
from loops import SECTION, Ways, assert_resumes, assert_same, make, stopped, weights, write_recipe
from tiny_model import make_tiny

from mlxtune.core.errors import DataError, Interrupted, MachineError, MlxtuneError, ModelError
from mlxtune.models import head
from mlxtune.recipe import parse
from mlxtune.training import checkpoint, loop, optimizer, stopping
from mlxtune.training.checkpoint import make_origin
from mlxtune.training.setup import prepare
from mlxtune.training.stopping import MemoryGuard


@pytest.mark.slow
def test_loss_falls_and_every_step_and_row_is_reported(tiny, tmp_path):
    listener = Listener()
    run = make(tiny, tmp_path)
    summary = run.run(listener)
    assert run.total_steps == 3 * math.ceil(math.ceil(22 / 4) / 2) == summary["steps"]
    assert [event["step"] for event in listener.of("step")] == list(range(1, run.total_steps + 1))
    losses = [event["loss"] for event in listener.of("validation")]
    assert losses[-1] < losses[0]
    assert sum(event["tokens"] for event in listener.of("step")) == 3 * sum(int(row.trained.sum()) for row in run.train)
    report = json.loads((tmp_path / "certificate.json").read_text())
    assert report["totals"]["visits"] == 3 * 22
    assert report["totals"]["seen"] == 3 * sum(len(row.tokens) for row in run.train)
    assert report["totals"]["trained"] == 3 * sum(int(row.trained.sum()) for row in run.train)
    assert [row["visits"] for row in report["rows"]] == [3] * 22


@pytest.mark.parametrize(("size", "accumulate"), [(4, 1), (4, 4), (5, 3), (22, 2), (100, 1)])
def test_epoch_visits_every_row_once_with_final_partial_step(tiny, tmp_path, size, accumulate):
    run = make(tiny, tmp_path, replace(SECTION, batch_size=size, accumulate=accumulate, epochs=2))
    planned = [next_step for next_step, _ in zip(run.step_plans(), range(run.total_steps), strict=False)]
    assert run.total_steps == 2 * math.ceil(math.ceil(22 / size) / accumulate)
    assert run.epochs == 2
    for number in range(2):
        rows = [at for step in planned if step.epoch == number for group in step.groups for at in group]
        assert sorted(rows) == list(range(22))


def test_step_limit_ends_within_epoch(tiny, tmp_path):
    run = make(tiny, tmp_path, replace(SECTION, steps=4))
    assert (run.total_steps, run.epochs) == (4, 1.3)
    assert run.run(Listener())["steps"] == 4


@pytest.mark.parametrize(("size", "accumulate", "lanes"), [(2, 2, 1), (1, 4, 1), (3, 2, 1), (4, 1, 2), (2, 2, 2)])
def test_batch_shape_does_not_change_step(tiny, tmp_path, monkeypatch, size, accumulate, lanes):
    """Rows have unequal lengths: a mean of means would weight their tokens unequally."""
    monkeypatch.setattr(optimizer, "make", lambda *_: optim.SGD(0.0))

    def step(name: str, size: int, accumulate: int, lanes: int) -> tuple[dict[str, mx.array], dict]:
        section = replace(SECTION, epochs=1, batch_size=size, accumulate=accumulate, learning_rate=0.1, clip=0.0, warmup=0.0)
        run, listener = make(tiny, tmp_path / name, section, Ways(dropout=0.0, lanes=lanes), rows=8), Listener()
        run.run(listener)
        (event,) = listener.of("step")
        return weights(run), event

    (one, expected), (other, event) = step("one", 4, 1, 1), step("other", size, accumulate, lanes)
    assert event["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert event["norm"] == pytest.approx(expected["norm"], rel=1e-5)
    assert event["tokens"] == expected["tokens"]
    for name, array in one.items():
        assert mx.abs(other[name] - array).max().item() < 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ways", "epochs", "at"),
    [(Ways(), 2, 5), pytest.param(Ways(), 3, 9, marks=pytest.mark.exhaustive), (Ways(layers=1, cached=True, lanes=2), 2, 4)],
    ids=["before a validation", "before the last validation", "optimized"],
)
def test_resumed_run_ends_as_an_uninterrupted_one(tiny, tmp_path, ways, epochs, at):
    """In the second epoch the cache fills and the streams start in a different order."""
    assert_resumes(tiny, tmp_path, replace(SECTION, epochs=epochs), ways, at)


@pytest.mark.slow
def test_compiled_path_matches_plain_path_and_resumes(tmp_path):
    """This is the GPU path: both halves of a step are compiled, here in bf16 with 4-bit weights."""
    model = make_tiny(tmp_path / "model", bits=4)
    section = replace(SECTION, steps=4, batch_size=8, accumulate=1, save_every=2, validate_every=4)
    ways = Ways(half=True, layers=1, targets=("q_proj",))
    plain, compiled = Listener(), Listener()
    make(model, tmp_path / "plain", section, ways, rows=8).run(plain)
    whole = make(model, tmp_path / "compiled", section, replace(ways, compiled=True), rows=8)
    whole.run(compiled)
    losses = [step["loss"] for step in compiled.of("step")]
    assert losses == pytest.approx([step["loss"] for step in plain.of("step")], rel=1e-2)
    assert losses[-1] < losses[0]
    again = make(model, tmp_path / "compiled", section, replace(ways, compiled=True), rows=8)
    again.run(Listener(), checkpoint.find(tmp_path / "compiled", 2))
    assert_same(weights(whole), weights(again))


ORIGIN = make_origin(
    parse('name = "a"\n[model]\nbase = "b"\n[data]\nsource = "c"\n[training]\nlearning_rate = 5e-3\n'), "fingerprint", ""
)


@pytest.fixture(scope="module")
def interrupted(tiny, tmp_path_factory) -> checkpoint.Checkpoint:
    """The checkpoint of a run that was stopped after two steps."""
    run = make(tiny, tmp_path_factory.mktemp("interrupted"))
    run.origin = ORIGIN
    run.sample = lambda step: run.baseline_passes.extend([True, False]) or False
    return stopped(run, 2)


def test_changed_rows_are_refused_on_resume(tiny, tmp_path, interrupted):
    again = make(tiny, tmp_path, rows=27)
    again.origin = ORIGIN
    with pytest.raises(DataError, match="The data differs from the data used for the checkpoint at step 2") as refused:
        again.run(Listener(), interrupted)
    assert refused.value.exit_code == 2
    assert "Restore the original data" in refused.value.hint


@pytest.mark.parametrize(
    ("batch_size", "changes", "message"),
    [
        (3, {}, "This version would build different batches than the run used up to its checkpoint at step 2."),
        (4, {"base": "other"}, "The base's weights differ from those that the run used up to its checkpoint at step 2."),
        (4, {"parent": "other"}, "The parent's weights differ from those that the run used up to its checkpoint at step 2."),
        (
            4,
            {"training.learning_rate": 0.1},
            "training.learning_rate is 0.1, but the run used 0.005 up to its checkpoint at step 2.",
        ),
    ],
    ids=["batches", "base", "parent", "setting"],
)
def test_another_base_or_setting_is_refused_on_resume(tiny, tmp_path, interrupted, batch_size, changes, message):
    again = make(tiny, tmp_path, replace(SECTION, batch_size=batch_size))
    again.origin = ORIGIN | changes
    with pytest.raises((DataError, ModelError)) as refused:
        again.run(Listener(), interrupted)
    assert refused.value.message == message
    assert "start a new run" in refused.value.hint


def test_other_intervals_and_the_baselines_passes_are_taken_over_on_resume(tiny, tmp_path, interrupted):
    assert "training.save_every" not in ORIGIN
    again = make(tiny, tmp_path, replace(SECTION, save_every=9, steps=3))
    again.origin = ORIGIN
    again.run(Listener(), interrupted)
    assert again.baseline_passes == [True, False]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Return a dict of validation losses by step, the same in all batches of many rows; missing steps have loss 9."""
    losses: dict[int, float] = {}

    def validate(self: loop._TrainingRun, step: int) -> float:
        self.batch_losses = [losses.get(step, 9.0)] * 8
        return self.batch_losses[0]

    monkeypatch.setattr(loop._TrainingRun, "_validate", validate)
    monkeypatch.setattr(loop, "MIN_ROWS", 0)
    return losses


EACH = replace(SECTION, steps=8, accumulate=1, validate_every=1, save_every=100)


def test_best_checkpoint_becomes_adapter(tiny, tmp_path, script):
    script |= {1: 5.0, 2: 4.0, 3: 3.0, 6: 3.5}
    run = make(tiny, tmp_path, replace(EACH, save_every=1))
    summary = run.run(Listener())
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir()) == ["0000003", "0000007", "0000008"]
    assert summary == {"steps": 8, "validation": 3.0, "checkpoint": 8, "adapter_step": 3}
    best = mx.load(str(tmp_path / "checkpoints" / "0000003" / "adapters.safetensors"))
    assert_same(weights(run), best)


@pytest.mark.parametrize(("correct", "step"), [([5, 6], 3), ([6, 6], 3), ([6, 5], 8)])
def test_answers_decide_between_checkpoints(tiny, tmp_path, script, correct, step):
    """The last step's answers are counted first, then those of the step with the lowest loss."""
    script |= {3: 3.0}
    run = make(tiny, tmp_path, EACH)
    run.count_correct = iter(correct).__next__
    assert run.run(Listener())["adapter_step"] == step
    assert_same(weights(run), mx.load(str(tmp_path / "checkpoints" / f"{step:07d}" / "adapters.safetensors")))


def test_few_validation_rows_do_not_choose_a_checkpoint(tiny, tmp_path, script, monkeypatch):
    script |= {3: 3.0}
    monkeypatch.setattr(loop, "MIN_ROWS", 30)
    assert make(tiny, tmp_path, EACH).run(Listener())["adapter_step"] == 8


def test_run_stops_when_validation_stops_improving_and_does_not_continue_on_resume(tiny, tmp_path, script):
    """It is resumed as if it had been killed between its last checkpoint and its final event."""
    script |= {1: 5.0, 2: 4.0}
    section, listener, later = replace(EACH, early_stop=3), Listener(), Listener()
    whole = make(tiny, tmp_path, section)
    summary = whole.run(listener)
    assert (summary["steps"], summary["adapter_step"], summary["validation"]) == (5, 2, 4.0)
    assert [(event["code"], event["values"]) for event in listener.of("warning")] == [
        ("stopped_early", {"validations": 3, "step": 2})
    ]
    again = make(tiny, tmp_path, section)
    assert again.run(later, checkpoint.newest(tmp_path)) == summary
    assert not later.of("step")
    assert_same(weights(whole), weights(again))


@pytest.mark.slow
def test_damaged_best_checkpoint_falls_back_to_last_weights_with_warning(tiny, tmp_path, script):
    script |= {2: 4.0}
    run, listener = make(tiny, tmp_path, EACH), Listener()

    def damage(step: int) -> bool:
        if step == 7:
            (tmp_path / "checkpoints" / "0000002" / "state.json").write_text("{}")
        return False

    run.sample = damage
    summary = run.run(listener)
    assert summary["adapter_step"] == 8
    assert [event["step"] for event in listener.of("checkpoint")] == [1, 2, 8], "improvements are saved at once"
    assert [(event["code"], event["values"]) for event in listener.of("warning")] == [("best_checkpoint_damaged", {"step": 2})]
    assert_same(weights(run), mx.load(str(tmp_path / "checkpoints" / "0000008" / "adapters.safetensors")))


@pytest.mark.parametrize(
    ("found", "code"), [({"is_split": False}, "head_not_split"), ({"has_unusual_head": True}, "head_computed_twice")]
)
def test_a_head_that_takes_more_than_usual_is_reported(tiny, tmp_path, monkeypatch, found, code):
    split = head.split_head
    monkeypatch.setattr(head, "split_head", lambda model: replace(split(model), **found))
    turns = [[{"role": "user", "content": f"Question {at}"}, {"role": "assistant", "content": f"Answer {at}."}] for at in range(12)]
    (tmp_path / "run").mkdir()
    prepare(write_recipe(tmp_path, tiny, turns, 2), tmp_path / "run", listener := Listener())
    assert [event["code"] for event in listener.of("warning")] == [code]


def test_non_finite_loss_stops_and_names_rows(tiny, tmp_path):
    run = make(tiny, tmp_path)
    name, array = next(iter(weights(run).items()))
    run.stack.model.load_weights([(name, array * math.nan)], strict=False)
    listener = Listener()
    with pytest.raises(MlxtuneError, match=r"The loss at step 1 is NaN or infinite \(rows: .*; no earlier checkpoint\)"):
        run.run(listener)
    assert listener.of("step")[-1]["loss"] is None
    assert not listener.of("checkpoint")


@pytest.mark.slow
def test_divergence_stops_with_rows_and_last_good_checkpoint(tiny, tmp_path, monkeypatch):
    """Gradient ascent until the loss is a third above that of the first steps."""
    downhill = optimizer.set_rate
    monkeypatch.setattr(stopping, "DIVERGED", 4 / 3)
    monkeypatch.setattr(optimizer, "set_rate", lambda optimizer_, rate, adapter: downhill(optimizer_, -rate, adapter))
    section = replace(SECTION, steps=60, accumulate=1, save_every=8, validate_every=100, learning_rate=0.02, schedule="constant")
    run = make(tiny, tmp_path, section)
    with pytest.raises(MlxtuneError, match=r"diverges: its median over the last 8 steps is [\d.]+") as caught:
        run.run(Listener())
    assert any(row.id in caught.value.message for row in run.train)
    assert f"last good checkpoint: {checkpoint.newest(tmp_path).step})" in caught.value.message


def test_low_memory_stops_at_checkpoint_with_advice(tiny, tmp_path):
    run = make(tiny, tmp_path)
    run.guard = MemoryGuard(limit=1)
    with pytest.raises(Interrupted) as stop:
        run.run(Listener())
    assert (stop.value.step, stop.value.exit_code) == (1, 3)
    assert stopping.ADVICE in stop.value.reason
    assert checkpoint.newest(tmp_path).step == 1


@pytest.mark.slow
def test_full_disk_is_reported_and_keeps_earlier_checkpoint(tiny, tmp_path, monkeypatch):
    run = make(tiny, tmp_path)
    real, calls = checkpoint.write_bytes, 0

    def full(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(MachineError, match="The disk is full, so step 5 was not saved"):
        run.run(Listener())
    assert checkpoint.newest(tmp_path).step == 3
