import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from mlxtune.core import files
from mlxtune.core.errors import InputError, MachineError


def test_a_write_leaves_no_temporary_files(tmp_path):
    path = tmp_path / "new" / "deep" / "file.bin"
    files.write_bytes(path, b"\x00one")
    files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written"), (errno.EACCES, "cannot be")]
)
def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, number, words):
    path = tmp_path / "state.json"
    files.write_bytes(path, b"old")

    monkeypatch.delattr("fcntl.F_FULLFSYNC", raising=False)  # macOS has it
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(MachineError, match=words) as caught:
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert "state.json" in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["state.json"]


def test_other_os_errors_pass_through():
    with pytest.raises(InterruptedError), files.disk_errors("x"):
        raise InterruptedError


def test_json_round_trips(tmp_path):
    value = {"ü": ["\ud800", 1.5, None, True, {"a": []}], "n": 2**70}
    files.write_json(tmp_path / "v.json", {**value, "ü": value["ü"][1:]})
    assert files.read_json(tmp_path / "v.json") == {**value, "ü": value["ü"][1:]}
    files.write_text(tmp_path / "surrogate.txt", "a\ud800")
    assert (tmp_path / "surrogate.txt").read_bytes() == b"a\xed\xa0\x80"


def test_missing_and_broken_json_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"{'a'")
    with pytest.raises(InputError, match=r"bad\.json cannot be read as JSON"):
        files.read_json(tmp_path / "bad.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xff")
    with pytest.raises(InputError):
        files.read_json(tmp_path / "bytes.json")


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLXTUNE_HOME", "~/elsewhere")
    assert files.home() == Path.home() / "elsewhere"
    monkeypatch.delenv("MLXTUNE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.home() == tmp_path / "mlxtune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.home() == Path.home() / ".cache" / "mlxtune"


@pytest.mark.parametrize("supported", [True, False])
def test_a_full_sync_is_used_where_the_system_and_the_file_system_have_it(tmp_path, monkeypatch, supported):
    calls = []

    def control(handle: int, command: int) -> None:
        calls.append(command)
        if not supported:
            raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(files.fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync"))
    files.write_bytes(tmp_path / "manifest.json", b"{}")
    once = [51] if supported else [51, "fsync"]
    assert calls == [*once, *once], "the file and its folder"


def test_the_machine_id_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    first = files.machine_id()
    monkeypatch.setattr("socket.gethostname", lambda: "another-network")
    assert files.machine_id() == first
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "other"))
    assert files.machine_id() != first


@pytest.mark.parametrize("found", [2, 4, None, "3", True])
def test_another_version_is_refused_with_the_path(found: object):
    with pytest.raises(InputError, match=r"evals/a/report\.json was written by another version"):
        files.require_version(found, 3 if found is not True else 1, Path("evals/a/report.json"))
