from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.runs.state import RunState, fold

START = {"kind": "train", "name": "shop", "base": "m", "pid": 42, "host": "h", "steps": 10}


def _event(type: str, t: float = 0.0, **fields):
    return {"v": 1, "seq": 0, "t": t, "type": type, **fields}


def _step(number: int, t: float | None = None, loss: float | None = 1.0, speed: float = 100.0):
    return _event(
        "step",
        number if t is None else t,
        step=number,
        loss=loss,
        rate=1e-4,
        tokens=9,
        speed=speed,
        memory=10 + number,
        peak=99,
        epoch=0.0,
    )


STORY = [
    _event("run.started", 100.0, **START),
    _event("model.loaded", 101.0, base="m", path="p", parameters=1, seconds=1.0, limit=7),
    _event("data.ready", 102.0, train=8, valid=1, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2),
    _event("validation", 103.0, step=0, loss=3.0, tokens=5),
    *(_step(number, 103.0 + 2 * number) for number in range(1, 6)),
    _event("validation", 114.0, step=5, loss=2.0, tokens=5),
    _event("sample", 114.5, step=5, row="r", prompt="q", output="a", verdict="v"),
    _event("checkpoint", 115.0, step=5, seconds=0.1),
    _event("warning", 116.0, text="w"),
]


def test_new_run_is_empty():
    state = fold([])
    assert state == RunState()
    assert (state.phase, state.step, state.speed, state.left, state.best, state.ended) == ("new", 0, 0.0, None, None, False)


def test_story_becomes_a_snapshot():
    state = fold(STORY)
    assert (state.phase, state.kind, state.name, state.base, state.pid) == ("running", "train", "shop", "m", 42)
    assert (state.total, state.epochs, state.limit, state.memory, state.peak) == (10, 2, 7, 15, 99)
    assert (state.step, state.checkpoints, state.warnings) == (5, (5,), ("w",))
    assert [(item.step, item.loss) for item in state.validations] == [(0, 3.0), (5, 2.0)]
    assert state.best
    assert state.best.step == 5
    assert state.samples[0].output == "a"
    assert (state.started, state.updated) == (100.0, 116.0)


def test_time_left_is_the_pace_times_the_steps_left():
    assert fold(STORY).left == pytest.approx(2.0 * 5)


def test_speed_is_the_mean_of_the_last_ten_steps():
    state = fold([_step(number, speed=float(number)) for number in range(1, 21)])
    assert state.speed == pytest.approx(15.5)


@given(st.lists(st.integers(0, len(STORY)), max_size=4))
def test_fold_in_pieces_is_the_fold_of_the_whole(cuts):
    places = [0, *sorted(cuts), len(STORY)]
    state = RunState()
    for one, two in itertools.pairwise(places):
        state = fold(STORY[one:two], state)
    assert state == fold(STORY)


def test_fold_changes_nothing_that_was_given():
    before = fold(STORY)
    copy = fold(STORY)
    fold([_step(6), _event("warning", text="x")], before)
    assert before == copy


def test_steps_after_a_restored_checkpoint_supersede_those_before_the_crash():
    late = [_step(6, loss=9.0), _step(7, loss=9.0), _event("validation", step=7, loss=9.0, tokens=1)]
    late += [_event("sample", step=7, row="r", prompt="q", output="lost", verdict="v"), _event("checkpoint", step=7, seconds=0.1)]
    state = fold([*STORY, *late, _event("run.resumed", 200.0, **START | {"pid": 43}, step=5), _step(6, 201.0, loss=0.5)])
    assert [item.step for item in state.steps] == [1, 2, 3, 4, 5, 6]
    assert state.steps[-1].loss == 0.5
    assert [item.step for item in state.validations] == [0, 5]
    assert state.checkpoints == (5,)
    assert [item.output for item in state.samples] == ["a"]
    assert (state.pid, state.started) == (43, 100.0)


def test_a_run_that_starts_again_from_nothing_forgets_the_first_try():
    again = [
        _event("run.started", 300.0, **START),
        _event("validation", 301.0, step=0, loss=3.0, tokens=5),
        _step(1, 302.0),
        _step(2, 304.0),
    ]
    state = fold([*STORY[:6], *again])
    assert [item.step for item in state.steps] == [1, 2]
    assert [item.step for item in state.validations] == [0]
    assert state.started == 300.0
    assert state.left is None or state.left >= 0


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (_event("run.finished", summary={"steps": 5}), "finished"),
        (_event("run.stopped", step=5), "stopped"),
        (_event("run.failed", error="e", mend="m", code=2), "failed"),
    ],
)
def test_last_word_ends_a_run_and_a_resume_wipes_it(event, phase):
    ended = fold([*STORY, event])
    assert (ended.phase, ended.ended) == (phase, True)
    again = fold([_event("run.resumed", **START, step=5)], ended)
    assert (again.phase, again.ended, again.error, again.mend, again.code, again.summary) == ("running", False, "", "", 0, ())


def test_failure_keeps_its_words_and_code():
    state = fold([*STORY, _event("run.failed", error="e", mend="m", code=2)])
    assert (state.error, state.mend, state.code) == ("e", "m", 2)


def test_loss_that_is_no_number_is_written_as_null_and_read_as_nan():
    state = fold([_step(1, loss=None), _event("validation", step=1, loss=None, tokens=1)])
    assert math.isnan(state.steps[0].loss)
    assert math.isnan(state.validations[0].loss)


def test_best_is_no_validation_that_is_not_a_number():
    state = fold([_event("validation", step=at, loss=loss, tokens=1) for at, loss in [(1, None), (2, 2.0), (3, 1.5), (4, None)]])
    assert state.best
    assert state.best.step == 3


def test_arms_of_an_evaluation_move_on():
    state = fold([
        _event("arm.started", arm="base", rows=70), _event("arm.progress", arm="base", done=64, total=70),
        _event("arm.finished", arm="base", rows=70, cached=False, seconds=1.0), _event("arm.started", arm="tuned", rows=70),
    ])  # fmt: skip
    assert state.arms == (("base", 70, 70), ("tuned", 0, 70))
    assert state.answering == ("tuned", "held-out row", 0, 70)


def test_what_an_arm_answers_beside_the_held_out_rows_does_not_count_as_them():
    state = fold([
        _event("arm.started", arm="base", rows=70), _event("arm.finished", arm="base", rows=70, cached=False, seconds=1.0),
        _event("arm.progress", arm="base", done=9, total=70, of="reference"),
        _event("arm.started", arm="base", rows=34, of="off-task prompt"),
        _event("arm.progress", arm="base", done=3, total=34, of="off-task prompt"),
    ])  # fmt: skip
    assert state.arms == (("base", 70, 70),)
    assert state.answering == ("base", "off-task prompt", 3, 34)
    assert fold([_event("run.started", pid=1, kind="eval", name="n", base="b")], state).answering is None


def test_event_of_a_newer_worker_only_moves_the_clock():
    state = fold([*STORY, _event("novelty", 500.0, anything=[1])])
    assert state.updated == 500.0
    assert (state.phase, state.step) == ("running", 5)
