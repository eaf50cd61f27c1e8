import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.runs.locks import accelerator_lease, file_lock, is_locked, require_free_accelerator


def test_a_lock_lasts_as_long_as_its_block(tmp_path):
    path = tmp_path / "new" / "run.lock"
    assert not is_locked(path)
    assert not path.exists()
    with file_lock(path, busy="busy", note="77"):
        assert is_locked(path)
        assert path.read_text() == "77"
    assert not is_locked(path)


def test_a_second_holder_is_refused_with_the_first_ones_note(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path, busy="", note="support-json"):
        with (
            pytest.raises(MachineError, match=r"^in use by support-json$"),
            file_lock(path, busy=lambda note: MachineError(f"in use by {note}"), timeout=0.0),
        ):
            pass
        assert is_locked(path)


@pytest.mark.parametrize(
    ("holder", "folder", "run", "name", "hint"),
    [
        ("eval", "/my shop", "x-1", "the evaluation x-1 in /my shop", "stop it: cd '/my shop' && mlxtune runs stop x-1"),
        ("train", "/shop", "x-1", "the training run x-1 in /shop", "stop it: cd /shop && mlxtune runs stop x-1"),
        ("chat", "/shop", "", "a chat or server in /shop", "e in the app's Chat room"),
        ("judge", "/shop", "", "a judge in /shop", "Wait for it to finish."),
    ],
)
def test_the_holder_of_the_accelerator_is_named_with_how_to_stop_it(tmp_path, monkeypatch, holder, folder, run, name, hint):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    with accelerator_lease(holder, Path(folder), run), pytest.raises(MachineError) as caught:
        require_free_accelerator(timeout=0.0)
    assert caught.value.message == f"This machine is in use by {name} (process {os.getpid()})."
    assert hint in caught.value.hint


def test_a_shorter_note_replaces_a_longer_one(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path, busy="", note="a long note"):
        pass
    with file_lock(path, busy="", note="b"):
        assert path.read_text() == "b"


def test_a_killed_holder_frees_the_lock(tmp_path):
    path = tmp_path / "lock"
    code = "import sys,time\nfrom pathlib import Path\nfrom mlxtune.runs.locks import file_lock\n"
    code += "with file_lock(Path(sys.argv[1]), busy=''):\n print('locked', flush=True)\n time.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "locked\n"
        assert is_locked(path)
        child.kill()
    assert not is_locked(path)


@pytest.mark.parametrize("operation", ["open", "pwrite"])
def test_a_full_disk_is_a_machine_error_and_frees_the_lock(tmp_path, monkeypatch, operation):
    monkeypatch.setattr(os, operation, Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with (
        pytest.raises(MachineError, match=r"The disk is full, so run\.lock was not saved"),
        file_lock(tmp_path / "run.lock", busy=""),
    ):
        pass
    monkeypatch.undo()
    assert not is_locked(tmp_path / "run.lock")
