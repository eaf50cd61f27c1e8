import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core import journal
from mlxtune.core.errors import MachineError
from mlxtune.core.journal import Journal, Tail

RECORDS = st.lists(st.dictionaries(st.text(max_size=6), st.integers() | st.text(max_size=8), max_size=3), min_size=1, max_size=5)


def _write(path: Path, records: list[dict[str, object]]) -> None:
    writer = Journal(path)
    for record in records:
        writer.append(record)
    writer.close()


def _torn(folders, records, data):
    """Write a journal that ends at any byte, and return its path and the complete records."""
    path = folders.mktemp("journal") / "events.jsonl"
    _write(path, records)
    written = path.read_bytes()
    kept = written[: data.draw(st.integers(0, len(written)))]
    path.write_bytes(kept)
    return path, records[: kept.count(b"\n")]


@pytest.mark.slow
@given(records=RECORDS, data=st.data())
def test_a_crash_at_any_byte_loses_only_the_torn_line(tmp_path_factory, records, data):
    path, complete = _torn(tmp_path_factory, records, data)
    assert journal.read(path) == complete
    _write(path, [{"after": "the crash"}])
    assert journal.read(path) == [*complete, {"after": "the crash"}]


@given(records=RECORDS, data=st.data())
def test_a_reader_of_a_torn_line_gets_every_later_record_once(tmp_path_factory, records, data):
    path, complete = _torn(tmp_path_factory, records, data)
    tail = Tail(path)
    received = tail.read()
    if data.draw(st.booleans()):
        Journal(path).close()  # the resumed worker removes the torn line, and the reader reads before the next write
        received += tail.read()
    new_records = [{"n": number, "pad": "x" * 40} for number in range(3)]
    _write(path, new_records)
    received += tail.read()
    assert received == [*complete, *new_records]


def test_tail_returns_each_record_once(tmp_path):
    tail = Tail(tmp_path / "j")
    assert tail.read() == []
    writer = Journal(tail.path)
    writer.append({"a": 1})
    assert tail.read() == [{"a": 1}]
    writer.append({"a": 2})
    writer.append({"a": 3})
    assert tail.read() == [{"a": 2}, {"a": 3}]
    assert tail.read() == []
    writer.close()


def test_a_line_break_in_a_value_is_escaped(tmp_path):
    path = tmp_path / "j"
    _write(path, [{"text": "one\ntwo\u2028three\ud800"}])
    assert path.read_bytes().count(b"\n") == 1
    assert journal.read(path) == [{"text": "one\ntwo\u2028three\ud800"}]


@pytest.mark.parametrize("line", [b"not json", b"[1, 2]", b"\xff\xfe", b"", b"7"])
def test_an_invalid_line_is_skipped(tmp_path, line):
    path = tmp_path / "j"
    path.write_bytes(b'{"a":1}\n' + line + b'\n{"a":2}\n')
    assert journal.read(path) == [{"a": 1}, {"a": 2}]


def test_a_shorter_replacement_is_read_from_its_start(tmp_path):
    path = tmp_path / "j"
    _write(path, [{"long": "x" * 100}])
    tail = Tail(path)
    tail.read()
    path.write_bytes(b'{"a":1}\n')
    assert tail.read() == [{"a": 1}]


@pytest.mark.parametrize("replace", [True, False])
def test_a_replaced_or_deleted_file_gets_the_next_record(tmp_path, replace):
    path = tmp_path / "j"
    writer = Journal(path)
    writer.append({"a": 1})
    assert writer.is_current
    if replace:
        (tmp_path / "new").write_bytes(b'{"b":1}\n{"torn"')
        (tmp_path / "new").replace(path)
    else:
        path.unlink()
    assert not writer.is_current
    writer.append({"a": 2})
    writer.close()
    assert journal.read(path) == [*([{"b": 1}] if replace else []), {"a": 2}]


def test_a_deleted_folder_is_not_created_again(tmp_path):
    (tmp_path / "run").mkdir()
    writer = Journal(tmp_path / "run" / "j")
    (tmp_path / "run" / "j").unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(FileNotFoundError):
        writer.append({"a": 1})
    assert not (tmp_path / "run").exists()


def test_partial_writes_make_one_record(tmp_path, monkeypatch):
    write = os.write
    writer = Journal(tmp_path / "j")
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    writer.append({"a": "0123456789"})
    monkeypatch.undo()
    writer.close()
    assert journal.read(tmp_path / "j") == [{"a": "0123456789"}]


def test_a_record_after_a_full_disk_starts_a_new_line(tmp_path, monkeypatch):
    write, calls = os.write, []

    def full(handle: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return write(handle, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = Journal(tmp_path / "j")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(MachineError, match="disk is full"):
        writer.append({"lost": True})
    monkeypatch.undo()
    writer.append({"type": "run.failed"})
    writer.close()
    assert journal.read(tmp_path / "j") == [{"type": "run.failed"}]
