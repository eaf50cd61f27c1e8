from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
from waiting import PATIENCE

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import write_json
from mlxtune.recipe import dump, load
from mlxtune.runs import registry
from mlxtune.runs.events import EventWriter
from mlxtune.runs.launch import watch
from mlxtune.runs.locks import file_lock
from mlxtune.runs.registry import QUIET_AFTER, STARTING_FOR

STARTED = ("run.started", {"kind": "train", "name": "shop", "base": "m", "pid": os.getpid(), "host": "h", "steps": 10})
FAILED = ("run.failed", {"error": "e", "hint": "", "code": 2})
FINISHED = ("run.finished", {"summary": {}})


def test_no_two_runs_of_any_kind_have_the_same_id(tmp_path):
    runs = [registry.create(tmp_path, kind, "shop") for kind in (*registry.RUN_KINDS, "train")]
    assert len({run.id for run in runs}) == 7
    assert all(run.folder.is_dir() for run in runs)
    assert [run.folder.parent.name for run in runs[:2]] == ["runs", "evals"]


def test_an_unwritable_folder_is_a_machine_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(MachineError, match="cannot be written"):
        registry.create(tmp_path, "train", "shop")


def test_a_run_is_evaluated_as_its_recipe_in_the_workspace_says_now(tmp_path):
    text = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "../shop.jsonl"\n'
    run = registry.create(tmp_path, "train", "shop")
    file = tmp_path / "recipes" / "shop.toml"
    file.parent.mkdir()
    file.write_text(text)
    (run.folder / "recipe.toml").write_text(dump(load(file)))
    assert registry.evaluation_recipe(run) == (run.recipe(), None)
    file.write_text(text.replace('base = "m"', 'base = "other"') + '[evaluation]\nrows = 40\nschema = "../s.json"\n')
    recipe, changed = registry.evaluation_recipe(run, ["evaluation.max_tokens=9"])
    assert changed == file
    assert (recipe.evaluation.rows, recipe.evaluation.max_tokens, recipe.schema_file) == (40, 9, tmp_path / "s.json")
    assert (recipe.model, recipe.source) == (run.recipe().model, run.recipe().source), "what it was trained on stays"
    file.write_text(f"{text.replace('shop', 'another')}[evaluation]\nrows = 40\n")
    assert registry.evaluation_recipe(run) == (run.recipe(), None), "a different recipe"
    file.unlink()
    assert registry.evaluation_recipe(run) == (run.recipe(), None)


def test_only_folders_with_a_recipe_are_runs(tmp_path, make_run):
    make_run()
    (tmp_path / "runs" / "stray").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    assert [run.id for run in registry.list_runs(tmp_path)] == ["20261124-1412-shop"]
    assert registry.list_runs(tmp_path, "eval") == []
    assert registry.list_runs(tmp_path / "nowhere") == []


def test_the_newest_run_comes_first(tmp_path, make_run):
    for number, name in enumerate(("20261124-1412-b", "20261124-1412-b-2", "20261124-1412-a")):
        os.utime(make_run(name).folder / "recipe.toml", (1000 + number, 1000 + number))
    (tmp_path / "runs" / "20261124-1412-b" / "checkpoints").mkdir()
    assert [run.id[14:] for run in registry.list_runs(tmp_path)] == ["a", "b-2", "b"]
    assert registry.find_run(tmp_path, "last").id == "20261124-1412-a"


def test_a_run_is_found_by_id_part_folder_or_last(tmp_path, make_run):
    first, second = make_run("20261124-1412-shop"), make_run("20261124-1412-shop-2")
    assert registry.find_run(tmp_path, first.id) == first  # although it is part of the other id
    assert registry.find_run(tmp_path, "shop-2") == second
    assert registry.find_run(tmp_path, str(second.folder)).id == second.id


def test_training_run_is_preferred_over_an_evaluation_with_the_same_id(tmp_path, make_run):
    run, evaluation = make_run(), make_run(kind="evals")
    assert registry.find_run(tmp_path, run.id, None) == run
    assert registry.find_run(tmp_path, run.id, "eval").folder == evaluation.folder


def test_last_of_all_kinds_is_the_active_run_or_the_newest_training_run(tmp_path, make_run):
    evaluation = make_run(kind="evals")
    assert registry.find_run(tmp_path, "last", None) == evaluation
    training = make_run()
    assert registry.find_run(tmp_path, "last", None) == training
    with file_lock(evaluation.lock, busy=""):
        assert registry.find_run(tmp_path, "last", None) == evaluation
        assert registry.find_run(tmp_path, "last") == training


def test_a_run_that_has_ended_since_its_state_was_read_has_not_crashed(tmp_path):
    run = registry.create(tmp_path, "train", "shop")
    writer = EventWriter(run.folder)
    writer.emit("run.started", kind="train", name="shop", base="m", pid=1)
    state = run.state()
    assert run.status(state) == "crashed"
    writer.emit("run.stopped", step=0)
    writer.close()
    assert run.status(state) == "stopped"


def test_last_of_the_evaluations_is_the_newest_one_that_has_finished(tmp_path, make_run):
    finished, failed = make_run("20261124-1411-a", FINISHED, kind="evals"), make_run("20261124-1412-a", FAILED, kind="evals")
    for number, run in enumerate((finished, failed)):
        os.utime(run.folder / "recipe.toml", (number, number))
    assert registry.list_runs(tmp_path, "eval") == [failed, finished]
    assert registry.find_run(tmp_path, "last", "eval") == finished


def test_missing_and_ambiguous_runs_are_input_errors(tmp_path, make_run):
    with pytest.raises(InputError, match="There are no training runs") as caught:
        registry.find_run(tmp_path, "last")
    assert "mlxtune train" in caught.value.hint
    make_run("20261124-1412-shop"), make_run("20261125-1412-shop")
    with pytest.raises(InputError, match="shop is ambiguous: it matches 2026"):
        registry.find_run(tmp_path, "shop")
    with pytest.raises(InputError, match="There is no training run named 20261125-1412-shp") as caught:
        registry.find_run(tmp_path, "20261125-1412-shp")
    assert caught.value.hint == "Did you mean 20261125-1412-shop?"


def test_a_very_long_name_is_an_input_error(tmp_path, make_run):
    make_run()
    with pytest.raises(InputError):
        registry.find_run(tmp_path, "x" * 5000)


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((STARTED, FINISHED), "finished"),
        ((STARTED, ("run.stopped", {"step": 3})), "stopped"),
        ((STARTED, FAILED), "failed"),
        ((STARTED,), "crashed"),
        ((), "starting"),
    ],
)
def test_status_without_a_running_worker(make_run, events, status):
    assert make_run("20261124-1412-shop", *events).status() == status


def test_a_run_that_never_started_is_crashed_after_a_while(make_run):
    run = make_run()
    assert run.status(now=time.time() + STARTING_FOR + 5) == "crashed"
    assert run.status(now=time.time() - STARTING_FOR - 5) == "crashed", "the clock was ahead when it was made"


def test_status_with_a_running_worker(make_run):
    run, silent = make_run("20261124-1412-a", STARTED), make_run("20261124-1412-b")
    with file_lock(run.lock, busy=""), file_lock(silent.lock, busy=""):
        assert run.status() == "running"
        assert run.status(now=time.time() + QUIET_AFTER + 5) == "quiet"
        assert silent.status() == "starting"
    assert run.status() == "crashed"


def test_a_failed_run_that_was_resumed_is_running(make_run):
    run = make_run("20261124-1412-a", STARTED, FAILED, ("run.resumed", STARTED[1] | {"step": 0}))
    with file_lock(run.lock, busy=""):
        assert run.status() == "running"


def test_stop_sends_the_worker_one_sigterm(make_run):
    with _process("20261124-1412-a") as child:
        run = make_run("20261124-1412-a", ("run.started", STARTED[1] | {"pid": child.pid}))
        with file_lock(run.lock, busy="", note=str(child.pid)):
            registry.stop(run)
            assert child.wait(PATIENCE) == 33


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that exits with 33 when it is asked to stop."""
    code = "import signal; signal.signal(15, lambda *_: exit(33)); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def test_an_unrelated_process_is_never_stopped(make_run):
    """The PID of a run on another machine that shares the disk, or one that was reused, may belong to any process here."""
    with _process("20261124-1412-b") as child:
        run = make_run("20261124-1412-a", ("run.started", STARTED[1] | {"pid": child.pid}))
        with file_lock(run.lock, busy="", note=str(child.pid + 1)):
            with pytest.raises(MachineError, match=f"Process {child.pid} is not the worker of 20261124-1412-a"):
                registry.stop(run)
            write_json(run.folder / registry.LAUNCH_FILE, {"machine": "another", "host": "studio"})
            with pytest.raises(InputError, match=r"20261124-1412-a runs on studio\.") as refused:
                registry.stop(run)
            assert refused.value.hint == "Stop it there: mlxtune runs stop 20261124-1412-a"
        assert child.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_of_another_container_is_never_stopped(make_run):
    with _process("something else") as child:
        run = make_run("20261124-1412-a", ("run.started", STARTED[1] | {"pid": child.pid}))
        with file_lock(run.lock, busy="", note=str(child.pid)), pytest.raises(MachineError, match="is not the worker"):
            registry.stop(run)
        assert child.poll() is None


def test_stopping_an_ended_run_or_a_missing_worker_is_refused(make_run):
    run = make_run("20261124-1412-a", ("run.started", STARTED[1] | {"pid": 2**22 + 1}))
    with pytest.raises(InputError, match=r"is not running, but crashed"):
        registry.stop(run)
    with file_lock(run.lock, busy=""), pytest.raises(MachineError, match="no longer exists"):
        registry.stop(run)


def test_remove_deletes_a_run_unless_it_is_running(make_run):
    run = make_run("20261124-1412-a", STARTED)
    with file_lock(run.lock, busy=""), pytest.raises(InputError, match="is running"):
        registry.remove(run)
    assert run.folder.is_dir()
    registry.remove(run)
    assert not run.folder.exists()


def test_remove_refuses_other_folders(make_run):
    run = make_run("my-thesis")
    with pytest.raises(InputError, match="does not look like a run"):
        registry.remove(run)
    assert run.folder.is_dir()


def test_log_tail_is_the_end_of_the_log(make_run):
    run = make_run()
    assert run.log_tail() == []
    run.log.write_bytes(b"one\ntwo\n\xff three\n\n")
    assert run.log_tail(2) == ["two", "\ufffd three"]


def test_a_run_that_ends_between_the_read_and_the_check_has_not_crashed(tmp_path, monkeypatch):
    run = registry.create(tmp_path, "train", "shop")
    writer = EventWriter(run.folder)
    writer.emit("run.started", kind="train", name="shop", base="m", pid=1)

    def end(lock):
        writer.emit("run.finished", summary={})
        return False

    monkeypatch.setattr(registry, "is_locked", end)
    assert [state.phase for _, state in watch(run)] == ["running", "running", "finished"]
