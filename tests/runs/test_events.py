import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlxtune.core.errors import InputError
from mlxtune.runs import events
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run


def test_events_have_version_number_time_and_type(tmp_path):
    writer = EventWriter(tmp_path)
    before = time.time()
    writer.emit("warning", code="export_note", values={"note": "one"})
    writer.emit("heartbeat")
    first, second = events.read_all(tmp_path)
    assert first == {"v": 2, "seq": 0, "t": first["t"], "type": "warning", "code": "export_note", "values": {"note": "one"}}
    assert (second["seq"], second["type"]) == (1, "heartbeat")
    assert abs(first["t"] - before) < 5


def test_numbering_continues_after_a_torn_line(tmp_path):
    writer = EventWriter(tmp_path)
    writer.emit("heartbeat")
    writer.emit("heartbeat")
    writer.close()
    file = tmp_path / events.FILE
    file.write_bytes(file.read_bytes()[:-5])
    EventWriter(tmp_path).emit("warning", code="export_note", values={"note": "back"})
    assert [event["seq"] for event in events.read_all(tmp_path)] == [0, 1]


def test_concurrent_threads_do_not_mix_lines(tmp_path):
    writer = EventWriter(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: writer.emit("warning", code="export_note", values={"note": str(number) * 200}), range(200)))
    received = events.read_all(tmp_path)
    assert [event["seq"] for event in received] == list(range(200))
    assert {event["values"]["note"] for event in received} == {str(number) * 200 for number in range(200)}


def test_a_reader_sees_appended_events(tmp_path):
    tail = events.EventReader(tmp_path)
    assert tail.read() == []
    EventWriter(tmp_path).emit("heartbeat")
    assert [event["type"] for event in tail.read()] == ["heartbeat"]
    assert tail.read() == []


def test_terminal_events_are_flushed_to_disk(tmp_path, monkeypatch):
    synced = []
    writer = EventWriter(tmp_path)
    monkeypatch.setattr("mlxtune.core.journal.sync_file", synced.append)
    for type in ("heartbeat", "step", "run.started", "checkpoint", *sorted(events.TERMINAL)):
        writer.emit(type)
    assert len(synced) == 2 + len(events.TERMINAL)


def test_unknown_events_are_kept(tmp_path):
    (tmp_path / events.FILE).write_text('{"v": 2, "seq": 0, "t": 0, "type": "new", "x": 1}\n')
    assert events.read_all(tmp_path)[0]["type"] == "new"


@pytest.mark.parametrize("keep_folder", [True, False])
def test_a_deleted_log_is_not_created_again(tmp_path, keep_folder):
    (tmp_path / "run").mkdir()
    writer = EventWriter(tmp_path / "run")
    writer.emit("heartbeat")
    (tmp_path / "run" / events.FILE).unlink()
    if not keep_folder:
        (tmp_path / "run").rmdir()
    with pytest.raises(events.RunRemoved, match="was deleted, so the run was ended"):
        writer.emit("heartbeat")
    assert not (tmp_path / "run" / events.FILE).exists()


def test_a_log_of_another_version_is_refused(tmp_path):
    (tmp_path / events.FILE).write_text('{"v": 1, "seq": 0, "t": 0, "type": "heartbeat"}\n')
    with pytest.raises(InputError, match="was written by another version"):
        events.read_all(tmp_path)
    state = Run(tmp_path).state()
    assert (state.phase, state.ended, state.code) == ("failed", True, 2)
