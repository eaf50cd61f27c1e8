"""Calibrations apply only to the same base on the same machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.files import home, machine_id
from mlxtune.planning import calibration
from mlxtune.planning.calibration import StepCalibration
from mlxtune.recipe import dump
from mlxtune.runs import events

from .conftest import recipe

CALIBRATION = StepCalibration(1.2, 0.002, 0.0005, "probe")
STEP = {"checkpointed": False}


pytestmark = pytest.mark.usefixtures("fresh_home")


def test_a_probe_applies_to_other_batches_ranks_and_optimizers(machine) -> None:
    calibration.store(recipe(), "f", machine, CALIBRATION, **STEP)
    other = recipe("training.batch_size=3", "training.cache_frozen=false", "adapter.rank=64", 'training.optimizer="lion"')
    assert calibration.find(other, "f", machine, **STEP) == CALIBRATION


def test_another_kind_of_step_uses_the_memory_figure_only(machine) -> None:
    calibration.store(recipe(), "f", machine, CALIBRATION, **STEP)
    other = calibration.find(recipe("adapter.layers=2"), "f", machine, **STEP)
    assert other is not None
    assert (other.scale, other.exact) == (CALIBRATION.scale, False)


def test_another_base_machine_or_compute_path_has_no_calibration(machine) -> None:
    calibration.store(recipe(), "f", machine, CALIBRATION, **STEP)
    assert calibration.find(recipe(), "g", machine, **STEP) is None
    assert calibration.find(recipe(), "f", replace(machine, chip="another"), **STEP) is None
    assert calibration.find(recipe("model.quantize=4"), "f", machine, **STEP) is None
    assert calibration.find(recipe(), "f", machine, checkpointed=True) is None


def test_a_truncated_file_is_measured_again(machine) -> None:
    (home() / calibration.FILE).write_text('{"v": 1, "ent')
    assert calibration.find(recipe(), "f", machine, **STEP) is None
    calibration.store(recipe(), "f", machine, CALIBRATION, **STEP)
    assert calibration.find(recipe(), "f", machine, **STEP) == CALIBRATION


def test_a_past_run_gives_its_speed_without_the_first_step(tmp_path: Path) -> None:
    given = recipe()
    run = tmp_path / "runs" / "20260101-0000-r"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(dump(given))
    (run / "launch.json").write_text(json.dumps({"machine": machine_id()}))
    facts = {"step": 1, "epoch": 0.1, "loss": 1.0, "rate": 1e-4, "memory": 1, "peak": 1}
    steps = [{"computed": 100, "tokens": 50, "speed": speed} for speed in (1.0, 25.0, 10.0)]
    lines = [{"v": events.VERSION, "seq": seq, "t": 0.0, "type": "step", **facts, **step} for seq, step in enumerate(steps)]
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    past = calibration.from_past_run(tmp_path, given)
    assert past is not None
    assert (past.seconds, past.source) == (pytest.approx((2.0 + 5.0) / 200), run.name)
    assert calibration.from_past_run(tmp_path, recipe("adapter.layers=2")) is None
    (run / "launch.json").write_text(json.dumps({"machine": "another"}))
    assert calibration.from_past_run(tmp_path, given) is None
