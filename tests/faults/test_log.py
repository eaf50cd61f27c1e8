"""The event log with torn lines, unreadable lines and clock jumps."""

import errno
import itertools
import os
from typing import Any

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.runs import events
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock
from mlxtune.runs.registry import QUIET_AFTER, Run
from mlxtune.runs.state import RunState

START = {"kind": "train", "name": "shop", "base": "m", "pid": 42, "host": "h"}
READY = {"train": 8, "valid": 1, "test": 1, "tokens": 9, "trained": 5, "truncated": 0, "steps": 100, "epochs": 2}
STEP = {"loss": 1.0, "rate": 1e-4, "norm": 1.0, "tokens": 200, "computed": 16, "speed": 100.0, "memory": 1, "peak": 2, "epoch": 0}
HOUR, DAY = 3600.0, 86400.0


def test_line_torn_at_any_byte_is_dropped_and_overwritten(tmp_path):
    writer = EventWriter(tmp_path)
    writer.emit("run.started", **START)
    writer.emit("step", step=1, **STEP)
    writer.emit("warning", code="export_note", values={"note": "a ünïcödé line that a crash tears"})
    writer.close()
    file = tmp_path / events.FILE
    whole = file.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(start, len(whole)):
        file.write_bytes(whole[:cut])
        tail = events.EventReader(tmp_path)
        assert [event["type"] for event in tail.read()] == ["run.started", "step"]
        resumed = EventWriter(tmp_path)
        resumed.emit("run.resumed", **START, step=1)
        resumed.close()
        assert [event["type"] for event in tail.read()] == ["run.resumed"]
        records = events.read_all(tmp_path)
        assert [event["seq"] for event in records] == [0, 1, 2]
        assert RunState().apply(records).step == 1


def test_unreadable_line_keeps_its_sequence_number(tmp_path):
    writer = EventWriter(tmp_path)
    for text in "abc":
        writer.emit("warning", code="export_note", values={"note": text})
    writer.close()
    file = tmp_path / events.FILE
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], b"\x00" * len(lines[1]), *lines[2:]]))
    EventWriter(tmp_path).emit("warning", code="export_note", values={"note": "d"})
    assert [(event["seq"], event["values"]["note"]) for event in events.read_all(tmp_path)] == [(0, "a"), (2, "c"), (3, "d")]


@pytest.mark.parametrize("operation", ["open", "write", "fsync"])
def test_full_disk_is_machine_error(tmp_path, monkeypatch, operation):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.delattr("fcntl.F_FULLFSYNC", raising=False)  # macOS has it
    monkeypatch.setattr(os, operation, full)
    with pytest.raises(MachineError, match=r"The disk is full, so events\.jsonl was not saved"):
        EventWriter(tmp_path).emit("run.finished", summary={})


def story(jump: float, after: int, steps: int = 40, extra: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    """Return events with one step every two seconds with a clock that jumps after step ``after``."""
    records = [{"t": 1e9, "type": "run.started", **START}, {"t": 1e9, "type": "data.ready", **READY}]
    for step in range(1, steps + 1):
        if step == after + 1:
            records += extra
        records.append({"t": 1e9 + 2 * step + (jump if step > after else 0), "type": "step", "step": step, **STEP})
    return records


@pytest.mark.parametrize("jump", [-HOUR, -DAY, -1.0, HOUR, DAY])
@pytest.mark.parametrize("after", [3, 20, 38])
def test_clock_jump_keeps_elapsed_time_and_speed(jump, after):
    state = RunState().apply(story(jump, after))
    assert state.remaining_seconds == pytest.approx(2.0 * 60, rel=0.02)
    assert state.speed == 100.0


@pytest.mark.parametrize("away", [30.0, HOUR, 3 * DAY])
def test_gap_between_stop_and_resume_is_not_counted(away):
    resumed = {"t": 1e9 + 40 + away, "type": "run.resumed", **START, "step": 20}
    state = RunState().apply(story(away, 20, extra=(resumed,)))
    assert state.remaining_seconds == pytest.approx(2.0 * 60)
    early = RunState().apply([*story(away, 20, steps=20), resumed, story(away, 20, steps=21)[-1]])
    assert early.remaining_seconds is None


@pytest.mark.parametrize("jump", [-HOUR, DAY])
def test_clock_jump_does_not_mark_live_run_quiet_or_crashed(tmp_path, jump):
    run = Run(tmp_path)
    state = RunState().apply(story(jump, 20))
    now = 1e9 + 2 * 40 + jump + 1
    with file_lock(run.lock, busy=""):
        assert run.status(state, now=now) == "running"
        assert run.status(state, now=now - DAY) == "running"  # the clock jumps back, and there are no later events
        assert run.status(state, now=now + QUIET_AFTER) == "quiet"
    assert run.status(state, now=now) == "crashed"


def test_folded_steps_are_in_order():
    state = RunState().apply(story(-HOUR, 20))
    assert all(late.step == early.step + 1 for early, late in itertools.pairwise(state.steps))
