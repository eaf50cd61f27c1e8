import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_files import write_evaluation

from mlxtune.recipe import dump, parse
from mlxtune.runs import locks
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock

START = {"kind": "train", "name": "shop", "base": "m", "pid": os.getpid(), "host": "h", "steps": 10}


def _strict_json(text: str) -> Any:
    """Parse JSON and refuse NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not valid JSON")

    return json.loads(text, parse_constant=refuse)


def _run(cwd: Path, name: str, *, loss: float | None = 1.5, end: tuple[str, dict] | None = None, parent: str = "runs") -> Path:
    folder = cwd / parent / name
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(dump(parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')))
    with EventWriter(folder) as writer:
        writer.emit("run.started", **START)
        writer.emit("data.ready", train=8, valid=1, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2)
        writer.emit("step", step=1204, loss=loss, rate=1e-4, tokens=9, speed=100.0, memory=1, peak=2_500_000_000, epoch=0.1)
        writer.emit("validation", step=1204, loss=loss, tokens=5)
        writer.emit("checkpoint", step=1204, seconds=0.1)
        if end:
            writer.emit(end[0], **end[1])
    return folder


FINISHED = ("run.finished", {"summary": {"steps": 10}})
FAILED = ("run.failed", {"error": "No luck.", "hint": "Try again.", "code": 2})


def test_an_empty_workspace_shows_how_to_start(cli, cwd):
    (cwd / "runs").mkdir()
    result = cli("runs")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("There are no training runs yet.   Start one with: mlxtune train RECIPE")


def test_a_folder_that_is_no_workspace_is_named_with_the_nearest_one(cli, refused, cwd, monkeypatch):
    refused(("runs",), "mlxtune init NAME")
    (cwd / "shop" / "recipes").mkdir(parents=True)
    (cwd / "shop" / "recipes" / "shop.toml").touch()
    refused(("runs",), "The nearest one: cd shop")
    (cwd / "shop" / "data").mkdir()
    monkeypatch.chdir(cwd / "shop" / "data")
    refused(("runs",), "The nearest one: cd ..")
    assert cli("runs", "--json").json == []


@pytest.mark.parametrize("command", ["adapters", "adapters show last", "chat last", "eval last", "runs show last"])
def test_commands_outside_a_workspace_name_the_nearest_one(cli, cwd, command):
    (cwd / "shop" / "recipes").mkdir(parents=True)
    (cwd / "shop" / "recipes" / "shop.toml").touch()
    result = cli(*command.split())
    assert "The nearest one: cd shop" in result.err
    (cwd / "recipes").mkdir()
    (cwd / "recipes" / "shop.toml").touch()
    result = cli(*command.split())
    assert "mlxtune train RECIPE" in result.out + result.err


def test_list_has_one_line_per_run(cli, cwd):
    _run(cwd, "20261120-0900-shop", end=FAILED)
    _run(cwd, "20261121-0900-shop")
    _run(cwd, "20261122-0900-shop", end=FINISHED)
    lines = cli("runs").out.splitlines()
    assert lines[0].split() == ["run", "kind", "status", "step", "validation"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["✓", "20261122-0900-shop", "train", "finished"],
        ["✗", "20261121-0900-shop", "train", "crashed"],
        ["✗", "20261120-0900-shop", "train", "failed"],
    ]
    assert lines[1].split()[4:] == ["1,204/10", "1.500", "just", "now"]


def test_runs_of_every_kind_are_listed_and_can_be_filtered(refused, cli, cwd):
    """Evaluations and exports are runs, too."""
    _run(cwd, "20261120-0900-shop", end=FINISHED)
    evaluation = _run(cwd, "20261121-0900-shop", parent="evals")
    with EventWriter(evaluation) as writer:
        writer.emit("arm.progress", arm="tuned", done=3, total=70)
        writer.emit("run.finished", summary={})
    _run(cwd, "20261122-0900-shop", end=FAILED, parent="exports")
    assert [line.split()[1:4] for line in cli("runs").out.splitlines()[1:]] == [
        ["20261122-0900-shop", "export", "failed"],
        ["20261121-0900-shop", "eval", "finished"],
        ["20261120-0900-shop", "train", "finished"],
    ]
    assert "  tuned 3/70  " in cli("runs", "--kind", "eval").out
    (item,) = _strict_json(cli("runs", "--kind", "eval", "--json").out)
    assert (item["run"], item["kind"], item["arm"], item["step"], item["steps"]) == (evaluation.name, "eval", "tuned", 3, 70)
    assert ["kind", "eval"] in map(str.split, cli("runs", "show", "20261121").out.splitlines())
    assert _strict_json(cli("runs", "show", "--json").out)["kind"] == "train", "last is the newest training run"
    refused(("runs", "--kind", "evals"), "Did you mean eval?")
    assert cli("runs", "--kind", "export").out.count("\n") == 2
    assert cli("runs", "attach", "20261121").code == 0
    assert cli("runs", "remove", "20261121", "--yes").code == 0
    assert not evaluation.exists()


def test_list_as_json(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop", end=FINISHED)
    (item,) = _strict_json(cli("runs", "--json").out)
    assert item["run"] == "20261122-0900-shop"
    assert (item["status"], item["base"], item["step"], item["steps"], item["validation"]) == ("finished", "m", 1204, 10, 1.5)
    assert item["folder"] == str(folder)


@pytest.mark.parametrize("command", [("runs", "--json"), ("runs", "show", "--json")])
def test_a_nan_loss_is_null_in_json(cli, cwd, command):
    _run(cwd, "20261122-0900-shop", loss=None, end=FAILED)
    document = _strict_json(cli(*command).out)
    assert (document[0] if isinstance(document, list) else document)["validation"] is None


def test_show_describes_the_last_run(ok, cwd):
    _run(cwd, "20261122-0900-shop", end=FAILED)
    result = ok("runs", "show")
    for words in ("20261122-0900-shop", "failed", "1,204 of 10", "1.500 at 1,204", "peak 2.3 GB", "No luck.", "Try again."):
        assert words in result.out


def test_show_names_the_step_of_the_adapter_if_it_is_not_the_last(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop", end=("run.finished", {"summary": {"steps": 1204, "adapter_step": 600}}))
    shown = cli("runs", "show")
    assert f"Adapter: {folder / 'adapter'}" in shown.out
    assert "It is from step 600, which had the lowest validation loss." in shown.err
    _run(cwd, "20261123-0900-shop", end=("run.finished", {"summary": {"steps": 1204, "adapter_step": 1204}}))
    assert "It is from step" not in cli("runs", "show").err


def test_show_of_a_crashed_run_has_its_log_and_the_resume_command(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop")
    (folder / "worker.log").write_text("Killed by something\n")
    out = cli("runs", "show", "shop").out
    assert "Killed by something" in out
    assert "mlxtune runs resume 20261122-0900-shop" in out


def test_a_running_run_is_listed_as_running(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop")
    with file_lock(folder / "run.lock", busy=""):
        assert _strict_json(cli("runs", "--json").out)[0]["status"] == "running"


@pytest.mark.parametrize(("end", "code"), [(FINISHED, 0), (FAILED, 2), (("run.stopped", {"step": 5}), 3)])
def test_attach_prints_events_and_exits_with_the_runs_code(cli, cwd, end, code):
    _run(cwd, "20261122-0900-shop", end=end)
    result = cli("runs", "attach")
    assert (result.code, bool(result.out)) == (code, not code), "only a run that has finished has an adapter to evaluate"
    assert ("next  Evaluate the adapter" in result.err) == (not code)
    assert ("Continue it: mlxtune runs resume 20261122-0900-shop" in result.err) == (code == 3)
    assert "shop started on m" in result.err
    assert "validation at 1,204: 1.500" in result.err


def test_attach_json_is_one_event_per_line(cli, cwd):
    _run(cwd, "20261122-0900-shop", end=FINISHED)
    result = cli("runs", "attach", "--json")
    assert [_strict_json(line)["type"] for line in result.out.splitlines()][-1] == "run.finished"


def test_attach_to_a_crashed_search_says_that_its_results_are_saved(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop", parent="searches")
    result = cli("runs", "attach", str(folder))
    assert (result.code, "Every result is saved; to continue, run: mlxtune runs resume" in result.err) == (4, True), result.err


def test_attach_to_a_crashed_run_names_its_last_checkpoint(cli, cwd):
    _run(cwd, "20261122-0900-shop")
    result = cli("runs", "attach")
    assert result.code == 4
    assert "20261122-0900-shop crashed at step 1,204." in result.err
    assert "Checkpoint 1204 is saved; to continue, run: mlxtune runs resume" in result.err
    assert "Traceback" not in result.err


def test_a_crash_by_a_gpu_error_is_named(cli, cwd):
    run = _run(cwd, "20261122-0900-shop")
    (run / "worker.log").write_text("[METAL] Command buffer execution failed: Impacting Interactivity\n")
    result = cli("runs", "attach", "0900")
    assert "macOS stopped the GPU work because the display needed the GPU." in " ".join(result.err.split())


def test_stopping_an_ended_run_is_bad_input(refused, cwd):
    _run(cwd, "20261122-0900-shop", end=FINISHED)
    refused(("runs", "stop"), "is not running, but finished")


def test_a_run_that_finishes_before_it_is_stopped_is_not_continued(cli, cwd, monkeypatch):
    folder = _run(cwd, "20261122-0900-shop", parent="evals")

    def stop(run):
        with EventWriter(folder) as writer:
            writer.emit(FINISHED[0], **FINISHED[1])

    monkeypatch.setattr("mlxtune.runs.registry.stop", stop)
    assert cli("runs", "stop", str(folder)).out == "20261122-0900-shop finished before it was stopped.\n"


def test_stop_does_not_wait_without_end(cli, cwd, monkeypatch):
    folder = _run(cwd, "20261122-0900-shop")
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)  # the worker hangs, and ignores the signal
    monkeypatch.setattr("mlxtune.workspace.control.STOP_LIMIT", 0.0)
    with file_lock(folder / "run.lock", busy=""):
        result = cli("runs", "stop")
    assert result.code == 4
    assert "has not stopped within 0 s." in " ".join(result.err.split())
    assert f"kill -9 {os.getpid()}" in result.err


def test_a_long_phase_before_the_first_step_is_reported_with_a_count(cli, cwd, monkeypatch):
    folder = cwd / "runs" / "20261122-0900-pairs"
    folder.mkdir(parents=True)
    times = iter(range(1_800_000_000, 1_900_000_000, 4))  # four seconds between two events
    (folder / "recipe.toml").write_text(dump(parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')))
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: next(times))
        with EventWriter(folder) as writer:
            writer.emit("run.started", **START)
            writer.emit("reference", done=8, total=16, of="distance")
            writer.emit("reference", done=16, total=16, of="distance")
            for done in range(4, 25, 4):
                writer.emit("reference", done=done, total=24)
            writer.emit("data.ready", train=20, valid=4, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2)
    shown = [line[10:] for line in cli("runs", "attach").err.splitlines()]
    assert [line for line in shown if "reference model" in line] == [
        "·  the reference model read 8 of 16 validation pairs", "·  the reference model scored 8 of 24 pairs",
        "·  the reference model scored 20 of 24 pairs", "·  the reference model scored 24 pairs"
    ]  # fmt: skip
    assert "·  computing the loss of 4 validation rows before the first step" in shown


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("", 130)])
def test_remove_without_confirmation_keeps_the_run(cli, cwd, answer, code):
    folder = _run(cwd, "20261122-0900-shop", end=FINISHED)
    result = cli("runs", "remove", "last", stdin=answer)
    assert result.code == code
    assert "Delete 20261122-0900-shop" in result.err
    assert folder.is_dir()


def test_metrics_are_exported_as_csv(cli, cwd):
    _run(cwd, "20261122-0900-shop", end=FINISHED)
    _run(cwd, "20261123-0900-shop", parent="evals")
    assert "1 row exported" not in cli("runs", "export", "--to", "csv", "-o", "out.csv").out
    header, row = (cwd / "out.csv").read_text().splitlines()
    assert header.startswith("run,step,train/loss,")
    assert row.startswith("20261122-0900-shop,1204,1.5,")
    assert "Did you mean csv?" in cli("runs", "export", "--to", "csvs").err
    assert "has no per-step metrics" in cli("runs", "export", "20261123").err


def test_last_exports_the_newest_training_run_while_something_else_runs(cli, cwd):
    _run(cwd, "20261122-0900-shop", end=FINISHED)
    evaluation = _run(cwd, "20261123-0900-shop", parent="evals")
    with file_lock(evaluation / "run.lock", busy=""):
        assert cli("runs", "export", "-o", "out.csv").code == 0
    assert (cwd / "out.csv").is_file()


def test_an_evaluation_is_listed_with_its_held_out_rows(cli, cwd):
    folder = _run(cwd, "20261122-0900-shop", parent="evals")
    with EventWriter(folder) as writer:
        writer.emit("arm.finished", arm="base", rows=10, seconds=1.0, cached=False)
        writer.emit("arm.progress", arm="base", done=9, total=300, of="off-task prompt")
    assert "10/10" in cli("runs", "--kind", "eval").out


@pytest.mark.parametrize("verb", ["show", "attach"])
def test_an_evaluation_is_shown_with_its_report(ok, cwd, verb):
    folder = write_evaluation(cwd)
    with EventWriter(folder) as writer:
        writer.emit("run.started", **{**START, "kind": "eval"})
        writer.emit("run.finished", summary={})
    ended = ok("runs", verb, "last")
    assert "Verdict" in ended.out
    assert str(folder / "report.json") in "".join(ended.out.split())


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The runs that a tracker has started, and the steps that it has logged."""
    logged: list[tuple[str, int]] = []
    module = SimpleNamespace(
        init=lambda name, **settings: logged.append((f"{name} {settings.get('resume', 'never')}", 0)),
        log=lambda values, step: logged.append((next(iter(values)), step)), finish=lambda: None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", module)
    return logged


def _add_steps(folder: Path, *steps: int, start: str = "", end: bool = False) -> None:
    time.sleep(0.01)
    with EventWriter(folder) as writer:
        if start:
            writer.emit(start, **START, step=1204)
        for step in steps:
            writer.emit("step", step=step, loss=1.0, rate=1e-4, tokens=9, speed=100.0, memory=1, peak=1, epoch=0.1)
        if end:
            writer.emit("run.finished", summary={})


def test_a_run_that_was_never_tracked_is_exported_whole_after_it_was_resumed(ok, cwd, tracker):
    folder = _run(cwd, "20261122-0900-shop")
    _add_steps(folder, 1205, start="run.resumed", end=True)
    with file_lock(folder / "track-wandb.lock", busy=""):  # another tracker has it
        pass
    assert "3 rows exported" in ok("runs", "export", "shop", "--to", "trackio", "--live").out


def test_a_resumed_run_logs_no_step_to_a_tracker_again(ok, cwd, tracker):
    """It crashes two steps after its checkpoint, so that these are trained twice."""
    folder = _run(cwd, "20261122-0900-shop")
    _add_steps(folder, 1205, 1206)
    live = ("runs", "export", "shop", "--to", "trackio", "--live")
    assert "4 rows exported" in ok(*live).out
    _add_steps(folder, 1205, 1206, 1207, start="run.resumed", end=True)
    assert "1 row exported" in ok(*live).out
    steps = [one for one in tracker if one[1]]
    assert steps == [("train/loss", 1204), ("validation/loss", 1204), *(("train/loss", step) for step in (1205, 1206, 1207))]
    assert [one for one in tracker if not one[1]] == [("20261122-0900-shop allow", 0)] * 2  # the same run of the tracker goes on
    assert "5 rows exported" in ok(*live[:-1]).out  # afterwards, all of them, in a new one
    assert tracker[-6] == ("20261122-0900-shop never", 0)


def test_a_second_process_does_not_log_what_the_first_logs(ok, cli, cwd, tracker, monkeypatch):
    """The process from before a quick resume may not notice that the run had stopped, and go on."""
    folder = _run(cwd, "20261122-0900-shop", end=FINISHED)
    live = ("runs", "export", "shop", "--to", "trackio", "--live")
    with file_lock(folder / "track-trackio.lock", busy=""), monkeypatch.context() as patch:
        patch.setattr(locks, "time", SimpleNamespace(monotonic=count(step=20).__next__, sleep=lambda seconds: None))  # no patience
        assert "is already being exported" in cli(*live).err
    assert not tracker
    ok(*live)
    assert tracker
