"""One index of the runs, recipes, and evaluations of a workspace, which reads only what has changed."""

import gc
import json
import os
import shutil
import statistics
import tracemalloc
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from evaluation_files import BAD, GOOD, write_evaluation

from mlxtune.adapters import library
from mlxtune.advice.next_step import StepCode, next_step
from mlxtune.evaluation import history
from mlxtune.evaluation.report import FILE
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs import registry
from mlxtune.runs.events import EventWriter
from mlxtune.workspace import index
from mlxtune.workspace.index import WorkspaceIndex


@pytest.fixture
def few_objects() -> None:
    """Keep what other tests have left out of garbage collections, which would walk through it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "power", lambda: None)


def copied(folder: Path, name: str, seconds: float, **facts: object) -> Path:
    """Copy an evaluation as one that finished ``seconds`` later, with changed facts."""
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    report = json.loads((copy / FILE).read_text())
    (copy / FILE).write_text(json.dumps(report | {"facts": report["facts"] | facts}))
    later = (folder / FILE).stat().st_mtime + seconds
    os.utime(copy / FILE, (later, later))
    return copy


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"arms": []}', '{"arms": [{}], "comparisons": [], "facts": {}, "verdict": ""}', "\x00"]
)
def test_a_damaged_report_is_left_out(tmp_path, text):
    folder = write_evaluation(tmp_path)
    (folder / FILE).write_text(text)
    assert history.evaluations(tmp_path) == []


def test_a_report_is_read_again_only_if_its_file_has_changed(tmp_path):
    folder = write_evaluation(tmp_path)
    one = history.evaluations(tmp_path)
    assert history.evaluations(tmp_path)[0] is one[0]
    os.utime(folder / FILE, (1.0, 1.0))
    assert history.evaluations(tmp_path)[0] is not one[0]


@pytest.mark.usefixtures("few_objects")
def test_a_removed_evaluation_takes_no_memory(tmp_path):
    folder = write_evaluation(tmp_path)
    weights = tmp_path / "runs" / "r" / "adapter" / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.touch()
    library.all_adapters(tmp_path)
    evaluation = weakref.ref(history.evaluations(tmp_path)[0])
    gc.collect()
    assert evaluation(), "it is not read for each list"
    shutil.rmtree(folder)
    library.all_adapters(tmp_path)
    gc.collect()
    assert not evaluation()


@pytest.mark.usefixtures("few_objects")
def test_a_workspace_that_is_left_takes_no_memory(tmp_path):
    write_evaluation(tmp_path)
    evaluation = weakref.ref(history.evaluations(tmp_path)[0])
    history.evaluations(tmp_path / "other")
    gc.collect()
    assert not evaluation()


def test_an_evaluation_has_its_facts_and_rates(tmp_path):
    folder = write_evaluation(tmp_path)
    (one,) = history.evaluations(tmp_path)
    assert (one.run.folder, one.name, one.run_id, one.adapter, one.rows) == (folder, "shop", "r", "a", 4)
    assert (one.report.rival.name, one.report.subject.name) == ("base", "tuned")
    before, after = one.changes[-1]
    assert (after.metric, before.hits, after.hits) == ("contract", 1, 3)
    assert one.recipe
    assert one.recipe.name == "shop"


def test_the_verdict_on_an_adapter_is_the_newest_or_the_same_on_more_rows(tmp_path):
    folder = write_evaluation(tmp_path)
    ids = json.loads((folder / FILE).read_text())["facts"]["row_ids"]
    copied(folder, "20261125-0900-shop", 60, row_ids=ids[:2], rows=2)
    other = copied(folder, "20261125-1000-shop", 120, run="other", adapter="b")
    found = history.evaluations(tmp_path)
    assert [one.run.id for one in found] == ["20261125-1000-shop", "20261125-0900-shop", "20261124-1412-shop"]
    assert [one.run.id for one in history.counting(found)] == ["20261125-1000-shop", "20261124-1412-shop"]
    of_r, of_b = history.evaluation_of(found, "r"), history.evaluation_of(found, "", Path("b"))
    assert of_r
    assert of_b
    assert (of_r.run.folder, of_b.run.folder) == (folder, other)
    assert history.evaluation_of(found, "none") is None


def test_the_index_keeps_unchanged_verdicts_and_finds_the_best(tmp_path):
    many = 30
    folder = write_evaluation(tmp_path, base=[BAD] * many, tuned=[GOOD] * many)
    workspace = WorkspaceIndex(tmp_path, lambda: 1.0)
    first = workspace.read()
    assert [one.run.folder for one in first.verdicts] == [folder]
    assert first.best is first.verdict is first.newest_comparison is first.verdict_on("r") is first.verdicts[0]
    assert workspace.read() == first
    copied(folder, "20261125-0900-shop", 60, run="other")
    second = workspace.read()
    assert (second.verdict_on("r"), len(second.verdicts)) == (first.verdicts[0], 2)
    assert second.verdict is second.verdict_on("other")


def test_a_removed_adapter_is_neither_the_best_nor_offered(tmp_path):
    write_evaluation(tmp_path, base=[BAD] * 30, tuned=[GOOD] * 30)
    workspace = WorkspaceIndex(tmp_path, lambda: 1.0)
    adapter = tmp_path / "runs" / "r" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapters.safetensors").touch()
    (adapter.parent / "recipe.toml").touch()
    EventWriter(adapter.parent).emit("run.finished", summary={})
    before = workspace.read()
    assert before.best
    assert next_step(replace(before, evals=())).code == StepCode.EVALUATE_EXAMPLES
    library.remove(tmp_path, "r")
    after = workspace.read()
    assert (after.best, after.removed_runs) == (None, {"r"})
    assert next_step(replace(after, evals=())).code == StepCode.CREATE_SAMPLES
    library.restore(tmp_path, "r")
    assert workspace.read().best == before.best


@pytest.mark.usefixtures("few_objects")
def test_an_evaluation_takes_little_memory(tmp_path):
    """The app holds all evaluations of a workspace, so that its memory grows with each one."""
    arms = ("base", "base+kshot", "base+grammar", "base+grammar+kshot", "constant", "copier", "tuned", "tuned+grammar")
    folder = write_evaluation(tmp_path, **{arm: [GOOD] * at + [BAD] * (12 - at) for at, arm in enumerate(arms)})
    for number in range(32):
        copied(folder, f"20261125-14{number:02d}-shop", 1.0 + number, made=f"2026-11-25T14:{number:02d}:00+0000")
    reader = WorkspaceIndex(tmp_path)
    taken = []
    tracemalloc.start()
    for number in range(33, 49):
        copied(folder, f"20261126-{number:04d}-shop", 1.0 + number, made=f"2026-11-26T{number:02d}:00:00+0000")
        reader.read()
        gc.collect()
        taken.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    size = (folder / FILE).stat().st_size
    assert size > 20_000
    growth = [after - before for before, after in pairwise(taken)]
    assert statistics.median(growth) < size / 2  # the mean would contain the tables that Python doubles now and then


def test_a_run_that_ends_after_its_events_are_read_has_not_crashed(tmp_path, monkeypatch):
    run = registry.create(tmp_path, "train", "shop")
    (run.folder / "recipe.toml").write_text("")
    writer, ends = EventWriter(run.folder), iter([True])
    writer.emit("run.started", kind="train", name="shop", base="m", pid=1)

    def is_locked(_: Path) -> bool:
        """The worker writes its last event and releases the lock just before it is checked for the first time."""
        if next(ends, False):
            writer.emit("run.stopped", step=0)
            writer.close()
        return False

    monkeypatch.setattr(registry, "is_locked", is_locked)
    [view] = WorkspaceIndex(tmp_path).read().runs
    assert view.status == "stopped"
