import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.runs.events import HELD_OUT_ROW, TOKEN, WAITING
from mlxtune.runs.state import RunState, RunWarning


def folded(events, state: RunState | None = None) -> RunState:
    return (state or RunState()).apply(events)


def answering(state: RunState) -> tuple[str, str, int, int]:
    one = state.answering
    assert one
    return one.arm, one.kind, one.done, one.total


def longest(state: RunState) -> tuple[int, int]:
    assert state.answering
    return state.answering.longest, state.answering.most


START = {"kind": "train", "name": "shop", "base": "m", "pid": 42, "host": "h", "steps": 10}


def _event(type: str, t: float = 0.0, **fields):
    return {"v": 1, "seq": 0, "t": t, "type": type, **fields}


def _step(number: int, t: float | None = None, loss: float | None = 1.0, speed: float = 100.0):
    facts = {"loss": loss, "rate": 1e-4, "tokens": 9, "speed": speed, "memory": 10 + number, "peak": 99, "epoch": 0.0}
    return _event("step", number if t is None else t, step=number, **facts)


EVENTS = [
    _event("run.started", 100.0, **START),
    _event("model.loaded", 101.0, base="m", path="p", parameters=1, seconds=1.0, limit=7),
    _event("data.ready", 102.0, train=8, valid=1, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2),
    _event("validation", 103.0, step=0, loss=3.0, tokens=5),
    *(_step(number, 103.0 + 2 * number) for number in range(1, 6)),
    _event("validation", 114.0, step=5, loss=2.0, tokens=5),
    _event("sample", 114.5, step=5, row="r", prompt="q", output="a", outcome="ended"),
    _event("checkpoint", 115.0, step=5, seconds=0.1),
    _event("warning", 116.0, code="budget_spent", values={"budget": "2h"}),
]


def test_no_events_give_an_empty_state():
    state = folded([])
    assert state == RunState()
    assert (state.phase, state.step, state.speed, state.ended) == ("new", 0, 0.0, False)
    assert state.remaining_seconds is state.best_validation is None


def test_events_become_a_state():
    state = folded(EVENTS)
    assert (state.phase, state.kind, state.name, state.base, state.pid) == ("running", "train", "shop", "m", 42)
    assert (state.total, state.epochs, state.limit, state.memory, state.peak) == (10, 2, 7, 15, 99)
    assert (state.step, state.checkpoints, state.warnings) == (5, [5], [RunWarning("budget_spent", {"budget": "2h"})])
    assert [(item.step, item.loss) for item in state.validations] == [(0, 3.0), (5, 2.0)]
    assert state.best_validation
    assert state.best_validation.step == 5
    assert state.samples[0].output == "a"
    assert (state.started, state.updated) == (100.0, 116.0)


def test_remaining_seconds_are_those_of_the_remaining_steps_and_of_the_final_validation():
    assert folded(EVENTS).remaining_seconds == pytest.approx(9 / 100 * 5 + 1.5)
    done = folded([_step(number, 117.0 + 2 * number) for number in range(6, 11)], folded(EVENTS))
    assert done.remaining_seconds == pytest.approx(1.5)
    final = [_event("validation", 140.0, step=10, loss=2.0, tokens=5)]
    assert folded(final, done).remaining_seconds == pytest.approx(1.5), "its samples are still to come"


def test_remaining_seconds_count_every_validation() -> None:
    ready = _event(
        "data.ready", 102.0, train=8, valid=1, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2, validate_every=4
    )
    start = [*EVENTS[:2], ready, _event("validation", 110.0, step=0, loss=3.0, tokens=5)]  # 8 seconds
    state = folded([*start, *(_step(number, 110.0 + 2 * number, speed=4.5) for number in (1, 2, 3))])
    assert state.remaining_seconds == pytest.approx(2 * 7 + 8 * 3), "after steps 4, 8, and 10"
    state = folded([_step(4, 118.0, speed=4.5)], state)
    assert state.remaining_seconds == pytest.approx(2 * 6 + 8 * 3), "the validation after step 4 is still to come"
    state = folded([_event("validation", 127.0, step=4, loss=2.0, tokens=5), _step(5, 129.0, speed=4.5)], state)
    assert state.remaining_seconds == pytest.approx(2 * 5 + 9 * 2), "its time is not that of a step"


def test_remaining_seconds_need_more_than_one_step_besides_the_first() -> None:
    state = folded([*EVENTS[:4], _step(1), _step(2)])
    assert state.remaining_seconds is None
    assert folded([_step(3)], state).remaining_seconds


def test_speed_is_the_mean_of_the_last_ten_steps():
    state = folded([_step(number, speed=float(number)) for number in range(1, 21)])
    assert state.speed == pytest.approx(15.5)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=4))
def test_fold_is_incremental(cuts):
    positions = [0, *sorted(cuts), len(EVENTS)]
    state = RunState()
    for start, end in itertools.pairwise(positions):
        state = folded(EVENTS[start:end], state)
    assert state == folded(EVENTS)


def test_fold_does_not_change_its_input():
    before = folded(EVENTS)
    copy = folded(EVENTS)
    folded([_step(6), _event("warning", code="budget_spent", values={})], before)
    assert before == copy


def test_resumed_steps_replace_those_after_the_checkpoint():
    late = [_step(6, loss=9.0), _step(7, loss=9.0), _event("validation", step=7, loss=9.0, tokens=1)]
    late += [
        _event("sample", step=7, row="r", prompt="q", output="lost", outcome="ended"),
        _event("checkpoint", step=7, seconds=0.1),
    ]
    state = folded([*EVENTS, *late, _event("run.resumed", 200.0, **START | {"pid": 43}, step=5), _step(6, 201.0, loss=0.5)])
    assert [item.step for item in state.steps] == [1, 2, 3, 4, 5, 6]
    assert state.steps[-1].loss == 0.5
    assert [item.step for item in state.validations] == [0, 5]
    assert state.checkpoints == [5]
    assert [item.output for item in state.samples] == ["a"]
    assert (state.pid, state.started) == (43, 100.0)


def test_a_restarted_run_has_only_its_new_steps():
    again = [
        _event("run.started", 300.0, **START),
        _event("validation", 301.0, step=0, loss=3.0, tokens=5),
        _step(1, 302.0),
        _step(2, 304.0),
    ]
    state = folded([*EVENTS[:6], *again])
    assert [item.step for item in state.steps] == [1, 2]
    assert [item.step for item in state.validations] == [0]
    assert state.started == 300.0
    assert state.remaining_seconds is None or state.remaining_seconds >= 0


def ending(state: RunState) -> tuple[object, ...]:
    return state.phase, state.ended, state.error, state.hint, state.code, state.summary


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (_event("run.finished", summary={"steps": 5}), ("finished", True, "", "", 0, {"steps": 5})),
        (_event("run.stopped", step=5), ("stopped", True, "", "", 0, {})),
        (_event("run.failed", error="e", hint="m", code=2), ("failed", True, "e", "m", 2, {})),
    ],
)
def test_a_terminal_event_ends_a_run_and_a_resume_clears_it(event, expected):
    ended = folded([*EVENTS, event])
    assert ending(ended) == expected
    assert ending(folded([_event("run.resumed", **START, step=5)], ended)) == ("running", False, "", "", 0, {})


def test_a_null_loss_is_read_as_nan():
    state = folded([_step(1, loss=None), _event("validation", step=1, loss=None, tokens=1)])
    assert math.isnan(state.steps[0].loss)
    assert math.isnan(state.validations[0].loss)


def test_the_best_validation_is_not_nan():
    state = folded(
        [_event("validation", step=step, loss=loss, tokens=1) for step, loss in [(1, None), (2, 2.0), (3, 1.5), (4, None)]]
    )
    assert state.best_validation
    assert state.best_validation.step == 3


def test_arms_of_an_evaluation():
    state = folded([
        _event("arm.started", arm="base", rows=70), _event("arm.progress", arm="base", done=64, total=70),
        _event("arm.finished", arm="base", rows=70, cached=False, seconds=1.0), _event("arm.started", arm="tuned", rows=70),
    ])  # fmt: skip
    assert state.arms == {"base": (70, 70), "tuned": (0, 70)}
    assert answering(state) == ("tuned", HELD_OUT_ROW, 0, 70)


def test_other_prompts_of_an_arm_do_not_count_as_held_out_rows():
    state = folded([
        _event("arm.started", arm="base", rows=70), _event("arm.finished", arm="base", rows=70, cached=False, seconds=1.0),
        _event("arm.progress", arm="base", done=9, total=70, of="reference"),
        _event("arm.started", arm="base", rows=34, of="off_task_prompt"),
        _event("arm.progress", arm="base", done=3, total=34, of="off_task_prompt"),
    ])  # fmt: skip
    assert state.arms == {"base": (70, 70)}
    assert answering(state) == ("base", "off_task_prompt", 3, 34)
    assert folded([_event("run.started", pid=1, kind="eval", name="n", base="b")], state).answering is None


def test_the_longest_answer_shows_how_far_an_evaluation_is() -> None:
    events = [
        _event("arm.started", 100.0, arm="base", rows=10), _event("arm.progress", 200.0, arm="base", done=9, total=10),
        _event("arm.progress", 200.0, arm="base", done=1200, total=2364, of=TOKEN),
    ]  # fmt: skip
    state = folded(events)
    assert answering(state) == ("base", HELD_OUT_ROW, 9, 10)
    assert longest(state) == (1200, 2364)
    finished = _event("arm.finished", 300.0, arm="base", rows=10, cached=False, seconds=200.0)
    assert longest(folded([*events, finished])) == (0, 0)
    reference = _event("arm.progress", 201.0, arm="base", done=3, total=10, of="reference")
    assert longest(folded([*events, reference])) == (0, 0)
    assert longest(folded([*events, _event("arm.started", 202.0, arm="tuned", rows=10)])) == (0, 0)


def test_the_longest_answer_limits_the_time_of_its_batch() -> None:
    def token(time: float, longest: int):
        return _event("arm.progress", time, arm="base", done=longest, total=500, of=TOKEN)

    def left(state: RunState) -> float | None:
        assert state.answering
        return state.answering.batch_remaining_seconds(state.updated)

    state = folded([_event("arm.started", 100.0, arm="base", rows=70), token(101.0, 0)])
    assert longest(state) == (0, 500)
    state = folded([token(130.0, 0), token(131.0, 5)], state)
    assert left(state) is None, "too early"
    state = folded([token(150.0, 100)], state)
    assert left(state) == 80.0, "reading the prompts does not count"
    waiting = folded([_event("arm.progress", 150.0, arm="base", done=3, total=70, of=WAITING)], state)
    assert waiting.answering
    assert waiting.answering.waiting == 3
    state = folded([token(160.0, 2)], state)
    assert left(state) is None, "another batch"
    assert left(folded([token(170.0, 42)], state)) == 114.5


def test_the_work_before_and_between_steps() -> None:
    reading = folded([_event("reference", done=4, total=16, of="distance")])
    assert reading.work == ("reading_pairs", 4, 16)
    scoring = folded([_event("reference", done=16, total=16, of="distance"), _event("reference", done=3, total=32)], reading)
    assert scoring.work == ("scoring_pairs", 3, 32)
    scored = folded([_event("reference", done=32, total=32)], scoring)
    assert scored.work is None
    validating = folded([_event("validating", step=0, done=2, total=5)], scored)
    assert validating.work == ("validating", 2, 5)
    assert folded([_event("validation", step=0, loss=1.0, tokens=1)], validating).work is None


def test_an_unknown_event_only_updates_the_time():
    state = folded([*EVENTS, _event("novelty", 500.0, anything=[1])])
    assert state.updated == 500.0
    assert (state.phase, state.step) == ("running", 5)


def test_remaining_time_of_an_arm_follows_from_its_mean_speed() -> None:
    def progress(time: float, done: int, of: str = HELD_OUT_ROW, total: int = 600):
        return _event("arm.progress", time, arm="base", done=done, total=total, of=of)

    def left(state: RunState) -> float | None:
        assert state.answering
        return state.answering.remaining_seconds(state.updated)

    start = [_event("arm.started", 100.0, arm="base", rows=600), progress(100.0, 0)]
    batch = folded([*start, progress(120.0, 95)])
    assert left(batch) is None, "the shortest answers of a batch end first"
    state = folded([*start, progress(120.0, 200)])
    assert left(state) == 40.0
    late = folded([progress(150.0, 500)], state)
    late_ones = [progress(time, 500) for time in (155.0, 170.0)]
    assert [left(folded(late_ones[:count], late)) for count in range(3)] == [10.0, 11.0, None]
    again = [_event("arm.started", 900.0, arm="base", rows=600), progress(900.0, 200)]
    assert left(folded([*again, progress(910.0, 295)], state)) is None, "less than a batch since it was resumed"
    again.append(progress(910.0, 300))
    assert left(folded(again, state)) == 30.0, "neither earlier time nor earlier answers count"
    other = folded([progress(130.0, 10, "off_task_prompt", 30)], state)
    assert left(other) is None, "this kind of prompt has just begun"
    passes = [progress(200.0, 0, "reference", 60), progress(210.0, 6, "reference", 60)]
    assert left(folded(passes, state)) == 90.0, "references take equally long"
    passes = [progress(200.0, 6, "reference", 60), progress(210.0, 12, "reference", 60)]
    assert left(folded(passes, state)) == 80.0, "the time before the first report is unknown"


def test_remaining_time_of_the_passes_before_the_first_step() -> None:
    loaded = _event("model.loaded", 10.0, limit=1)
    loaded = [loaded, _event("reference", 99.0, done=16, total=16, of="distance"), _event("reference", 100.0, done=0, total=120)]
    state = folded([*loaded, _event("reference", 130.0, done=30, total=120)])
    assert state.work_remaining_seconds == 90.0
    ready = [
        _event("reference", 220.0, done=120, total=120),
        _event("data.ready", 221.0, steps=9, epochs=1, valid=40, train=9, test=9),
    ]
    state = folded([*ready, _event("validating", 231.0, step=0, done=2, total=8)], state)
    assert state.work_remaining_seconds == 30.0
