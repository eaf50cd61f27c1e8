from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from mlxtune.runs import events
from mlxtune.runs.events import EventWriter


def test_events_have_version_number_time_and_type(tmp_path):
    writer = EventWriter(tmp_path)
    before = time.time()
    writer.emit("warning", text="one")
    writer.emit("heartbeat")
    first, second = events.read_all(tmp_path)
    assert first == {"v": 1, "seq": 0, "t": first["t"], "type": "warning", "text": "one"}
    assert (second["seq"], second["type"]) == (1, "heartbeat")
    assert abs(first["t"] - before) < 5


def test_numbering_continues_after_a_torn_line(tmp_path):
    writer = EventWriter(tmp_path)
    writer.emit("heartbeat")
    writer.emit("heartbeat")
    writer.close()
    file = tmp_path / events.FILE
    file.write_bytes(file.read_bytes()[:-5])
    EventWriter(tmp_path).emit("warning", text="back")
    assert [event["seq"] for event in events.read_all(tmp_path)] == [0, 1]


def test_concurrent_threads_do_not_mix_lines(tmp_path):
    writer = EventWriter(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: writer.emit("warning", text=str(number) * 200), range(200)))
    received = events.read_all(tmp_path)
    assert [event["seq"] for event in received] == list(range(200))
    assert {event["text"] for event in received} == {str(number) * 200 for number in range(200)}


def test_a_reader_sees_appended_events(tmp_path):
    tail = events.EventReader(tmp_path)
    assert tail.read() == []
    EventWriter(tmp_path).emit("heartbeat")
    assert [event["type"] for event in tail.read()] == ["heartbeat"]


def test_terminal_events_are_flushed_to_disk(tmp_path, monkeypatch):
    synced = []
    writer = EventWriter(tmp_path)
    monkeypatch.setattr("mlxtune.core.journal.sync_file", synced.append)
    for type in ("heartbeat", "step", "run.started", "checkpoint", *sorted(events.TERMINAL)):
        writer.emit(type)
    assert len(synced) == 2 + len(events.TERMINAL)
