from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlxtune.recipe import dump, parse
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import hold

START = {"kind": "train", "name": "shop", "base": "m", "pid": os.getpid(), "host": "h", "steps": 10}


def _strict(text: str) -> Any:
    """The value of a JSON document that holds no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _run(place: Path, name: str, *, loss: float | None = 1.5, end: tuple[str, dict] | None = None) -> Path:
    folder = place / "runs" / name
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(dump(parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')))
    writer = EventWriter(folder)
    writer.emit("run.started", **START)
    writer.emit("data.ready", train=8, valid=1, test=1, tokens=9, trained=5, truncated=0, steps=10, epochs=2)
    writer.emit("step", step=1204, loss=loss, rate=1e-4, tokens=9, speed=100.0, memory=1, peak=2_500_000_000, epoch=0.1)
    writer.emit("validation", step=1204, loss=loss, tokens=5)
    writer.emit("checkpoint", step=1204, seconds=0.1)
    if end:
        writer.emit(end[0], **end[1])
    writer.close()
    return folder


FINISHED = ("run.finished", {"summary": {"steps": 10}})
FAILED = ("run.failed", {"error": "No luck.", "mend": "Try again.", "code": 2})


@pytest.mark.parametrize("command", [("runs",), ("runs", "list")])
def test_empty_workspace_says_how_to_start(cli, command):
    ended = cli(*command)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("No runs here yet.   mlxtune train RECIPE")


@pytest.mark.parametrize("command", [("runs", "--json"), ("runs", "list", "--json")])
def test_empty_workspace_is_an_empty_list(cli, command):
    assert json.loads(cli(*command).out) == []


def test_list_has_a_line_for_each_run(cli, place):
    _run(place, "20261120-0900-shop", end=FAILED)
    _run(place, "20261121-0900-shop")
    _run(place, "20261122-0900-shop", end=FINISHED)
    lines = cli("runs").out.splitlines()
    assert lines[0].split() == ["run", "status", "step", "validation"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["✓", "20261122-0900-shop", "finished"],
        ["✗", "20261121-0900-shop", "crashed"],
        ["✗", "20261120-0900-shop", "failed"],
    ]
    assert lines[1].split()[3:] == ["1,204/10", "1.500", "now"]


def test_list_as_json(cli, place):
    folder = _run(place, "20261122-0900-shop", end=FINISHED)
    (found,) = _strict(cli("runs", "list", "--json").out)
    assert found["run"] == "20261122-0900-shop"
    assert (found["status"], found["base"], found["step"], found["steps"], found["validation"]) == ("finished", "m", 1204, 10, 1.5)
    assert found["folder"] == str(folder)


@pytest.mark.parametrize("command", [("runs", "list", "--json"), ("runs", "show", "--json")])
def test_loss_that_is_no_number_is_null_in_json(cli, place, command):
    _run(place, "20261122-0900-shop", loss=None, end=FAILED)
    found = _strict(cli(*command).out)
    assert (found[0] if isinstance(found, list) else found)["validation"] is None


def test_show_says_all_about_the_last_run(cli, place):
    _run(place, "20261122-0900-shop", end=FAILED)
    ended = cli("runs", "show")
    assert ended.code == 0
    for words in ("20261122-0900-shop", "failed", "1,204 of 10", "1.500 at 1,204", "peak 2.3 GB", "No luck. Try again."):
        assert words in ended.out


def test_show_of_a_crashed_run_ends_with_its_log_and_the_way_on(cli, place):
    folder = _run(place, "20261122-0900-shop")
    (folder / "worker.log").write_text("Killed by something\n")
    out = cli("runs", "show", "shop").out
    assert "Killed by something" in out
    assert "mlxtune runs resume 20261122-0900-shop" in out


def test_running_run_is_listed_as_running(cli, place):
    folder = _run(place, "20261122-0900-shop")
    with hold(folder / "run.lock", busy=""):
        assert _strict(cli("runs", "--json").out)[0]["status"] == "running"


@pytest.mark.parametrize(("end", "code"), [(FINISHED, 0), (FAILED, 2), (("run.stopped", {"step": 5}), 3)])
def test_attach_tells_the_story_and_exits_as_the_run_ended(cli, place, end, code):
    _run(place, "20261122-0900-shop", end=end)
    ended = cli("runs", "attach")
    assert (ended.code, ended.out) == (code, "")
    assert "shop started on m" in ended.err
    assert "validation at 1,204: 1.500" in ended.err


def test_attach_json_is_one_event_a_line(cli, place):
    _run(place, "20261122-0900-shop", end=FINISHED)
    ended = cli("runs", "attach", "--json")
    assert [_strict(line)["type"] for line in ended.out.splitlines()][-1] == "run.finished"


def test_attach_to_a_crashed_run_names_its_last_checkpoint(cli, place):
    _run(place, "20261122-0900-shop")
    ended = cli("runs", "attach")
    assert ended.code == 4
    assert "ended at step 1,204 without saying why" in ended.err
    assert "Checkpoint 1204 is whole: mlxtune runs resume" in ended.err
    assert "Traceback" not in ended.err


def test_stop_of_an_ended_run_is_bad_input(cli, place):
    _run(place, "20261122-0900-shop", end=FINISHED)
    ended = cli("runs", "stop")
    assert ended.code == 2
    assert "is not running: it is finished" in ended.err


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("\n", 1), ("", 130)])
def test_remove_asks_and_keeps_the_run_without_a_yes(cli, place, answer, code):
    folder = _run(place, "20261122-0900-shop", end=FINISHED)
    ended = cli("runs", "remove", "last", stdin=answer)
    assert ended.code == code
    assert "Delete 20261122-0900-shop" in ended.err
    assert folder.is_dir()


def test_remove_with_yes_deletes(cli, place):
    folder = _run(place, "20261122-0900-shop", end=FINISHED)
    assert cli("runs", "remove", "shop", "--yes").code == 0
    assert not folder.exists()
