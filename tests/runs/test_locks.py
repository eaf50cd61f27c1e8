from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.runs.locks import hold, is_held, lease_path


def test_lock_is_held_for_as_long_as_the_block(tmp_path):
    path = tmp_path / "new" / "run.lock"
    assert not is_held(path)
    with hold(path, busy="busy", note="77"):
        assert is_held(path)
        assert path.read_text() == "77"
    assert not is_held(path)


def test_second_holder_is_refused_with_the_note_of_the_first(tmp_path):
    path = tmp_path / "lock"
    with hold(path, busy="", note="support-json"):
        with pytest.raises(MachineError, match=r"^in use by support-json$"), hold(path, busy="in use by {note}", patience=0.0):
            pass
        assert is_held(path)


def test_shorter_note_leaves_nothing_of_a_longer_one(tmp_path):
    path = tmp_path / "lock"
    with hold(path, busy="", note="a long note"):
        pass
    with hold(path, busy="", note="b"):
        assert path.read_text() == "b"


def test_error_in_the_block_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "lock", busy=""):
        raise KeyError
    assert not is_held(tmp_path / "lock")


def test_death_of_a_holder_frees_the_lock_whatever_ended_it(tmp_path):
    path = tmp_path / "lock"
    code = "import sys,time\nfrom pathlib import Path\nfrom mlxtune.runs.locks import hold\n"
    code += "with hold(Path(sys.argv[1]), busy=''):\n print('held', flush=True)\n time.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        assert is_held(path)
        child.kill()
    assert not is_held(path)


@pytest.mark.parametrize("operation", ["open", "pwrite"])
def test_full_disk_is_a_machine_error_and_frees_the_lock(tmp_path, monkeypatch, operation):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, operation, full)
    with pytest.raises(MachineError, match=r"The disk is full, so run\.lock was not saved"), hold(tmp_path / "run.lock", busy=""):
        pass
    monkeypatch.undo()
    assert not is_held(tmp_path / "run.lock")


def test_asking_does_not_make_the_file(tmp_path):
    is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_lease_is_one_for_the_whole_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    assert lease_path() == tmp_path / "accelerator.lock"
