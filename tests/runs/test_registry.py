from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.runs import registry
from mlxtune.runs.locks import hold

STARTED = ("run.started", {"kind": "train", "name": "shop", "base": "m", "pid": os.getpid(), "host": "h", "steps": 10})
FAILED = ("run.failed", {"error": "e", "mend": "", "code": 2})


def test_new_folders_never_collide(tmp_path):
    runs = [registry.create(tmp_path, "train", "shop") for _ in range(3)]
    assert len({run.id for run in runs}) == 3
    assert all(run.folder.is_dir() and run.folder.parent == tmp_path / "runs" for run in runs)
    assert registry.create(tmp_path, "eval", "shop").folder.parent == tmp_path / "evals"


def test_folder_that_cannot_be_made_is_a_machine_error(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(MachineError, match="may not be written"):
        registry.create(tmp_path, "train", "shop")


def test_only_folders_with_a_recipe_are_runs(tmp_path, make_run):
    make_run()
    (tmp_path / "runs" / "stray").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    assert [run.id for run in registry.all_runs(tmp_path)] == ["20261124-1412-shop"]
    assert registry.all_runs(tmp_path, "eval") == []
    assert registry.all_runs(tmp_path / "nowhere") == []


def test_newest_run_comes_first_whatever_is_written_into_an_older_one(tmp_path, make_run):
    for number, name in enumerate(("20261124-1412-b", "20261124-1412-b-2", "20261124-1412-a")):
        os.utime(make_run(name).folder / "recipe.toml", (1000 + number, 1000 + number))
    (tmp_path / "runs" / "20261124-1412-b" / "checkpoints").mkdir()
    assert [run.id[14:] for run in registry.all_runs(tmp_path)] == ["a", "b-2", "b"]
    assert registry.find(tmp_path, "last").id == "20261124-1412-a"


def test_run_is_found_by_id_part_folder_or_last(tmp_path, make_run):
    one, two = make_run("20261124-1412-shop"), make_run("20261124-1412-shop-2")
    assert registry.find(tmp_path, one.id) == one  # though it is a part of the other's id
    assert registry.find(tmp_path, "shop-2") == two
    assert registry.find(tmp_path, str(two.folder)).id == two.id


def test_run_that_is_not_there_or_not_clear_is_an_input_error(tmp_path, make_run):
    with pytest.raises(InputError, match="There are no runs") as caught:
        registry.find(tmp_path, "last")
    assert "mlxtune train" in caught.value.mend
    make_run("20261124-1412-shop"), make_run("20261125-1412-shop")
    with pytest.raises(InputError, match="could be any of"):
        registry.find(tmp_path, "shop")
    with pytest.raises(InputError, match="There is no run 20261125-1412-shp") as caught:
        registry.find(tmp_path, "20261125-1412-shp")
    assert caught.value.mend == "Did you mean 20261125-1412-shop?"


def test_very_long_name_is_no_fault_of_ours(tmp_path, make_run):
    make_run()
    with pytest.raises(InputError):
        registry.find(tmp_path, "x" * 5000)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((STARTED, ("run.finished", {"summary": {}})), "finished"),
        ((STARTED, ("run.stopped", {"step": 3})), "stopped"),
        ((STARTED, FAILED), "failed"),
        ((STARTED,), "crashed"),
        ((), "starting"),
    ],
)
def test_status_without_a_living_worker(make_run, events, status):
    assert make_run("20261124-1412-shop", *events).status() == status


def test_folder_in_which_nothing_ever_started_is_crashed_after_a_while(make_run):
    assert make_run().status(now=time.time() + registry.STARTING_FOR + 5) == "crashed"


def test_status_with_a_living_worker(make_run):
    run, silent = make_run("20261124-1412-a", STARTED), make_run("20261124-1412-b")
    with hold(run.lock, busy=""), hold(silent.lock, busy=""):
        assert run.status() == "running"
        assert run.status(now=time.time() + registry.QUIET_AFTER + 5) == "quiet"
        assert silent.status() == "starting"
    assert run.status() == "crashed"


def test_resumed_run_that_had_failed_is_running(make_run):
    run = make_run("20261124-1412-a", STARTED, FAILED, ("run.resumed", STARTED[1] | {"step": 0}))
    with hold(run.lock, busy=""):
        assert run.status() == "running"


def test_stop_sends_the_worker_one_term_signal(make_run):
    code = "import signal; signal.signal(15, lambda *_: exit(33)); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        run = make_run("20261124-1412-a", ("run.started", STARTED[1] | {"pid": child.pid}))
        with hold(run.lock, busy=""):
            registry.stop(run)
            assert child.wait(10) == 33


def test_stop_of_what_does_not_run_is_refused(make_run):
    with pytest.raises(InputError, match="is not running: it is crashed"):
        registry.stop(make_run("20261124-1412-a", STARTED))


def test_stop_of_a_worker_that_is_gone_says_so(make_run, monkeypatch):
    def gone(pid: int, number: int) -> None:
        assert number == signal.SIGTERM
        raise ProcessLookupError

    run = make_run("20261124-1412-a", STARTED)
    monkeypatch.setattr(os, "kill", gone)
    with hold(run.lock, busy=""), pytest.raises(MachineError, match="is gone"):
        registry.stop(run)


def test_remove_deletes_a_run_but_not_while_it_runs(make_run):
    run = make_run("20261124-1412-a", STARTED)
    with hold(run.lock, busy=""), pytest.raises(InputError, match="is running"):
        registry.remove(run)
    assert run.folder.is_dir()
    registry.remove(run)
    assert not run.folder.exists()


def test_remove_keeps_its_hands_off_other_folders(make_run):
    run = make_run("my-thesis")
    with pytest.raises(InputError, match="does not look like a run"):
        registry.remove(run)
    assert run.folder.is_dir()


def test_log_tail_is_the_end_of_what_was_printed(make_run):
    run = make_run()
    assert run.log_tail() == []
    run.log.write_bytes(b"one\ntwo\n\xff three\n\n")
    assert run.log_tail(2) == ["two", "\ufffd three"]


def test_run_knows_its_recipe(make_run, recipe):
    assert make_run().recipe().name == recipe.name
