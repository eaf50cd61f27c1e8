"""A folder that looks like a run, and a worker that trains nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxtune.recipe import Recipe, dump, parse
from mlxtune.runs import launch
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run

RECIPE = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'

WORKER = """\
import os, signal, sys
from pathlib import Path
from mlxtune.core.errors import DataError, Interrupted
from mlxtune.runs.worker import live

def work(worker):
    how = worker.request.get("how", "finish")
    if how == "silent":
        print("nothing to say", flush=True)
        os._exit(7)
    worker.begin("train", **worker.request.get("begin", {}))
    if how == "bad data":
        raise DataError("line 3 is bad.", mend="Mend it.")
    if how == "fault":
        raise RuntimeError("oops")
    if how == "memory":
        raise MemoryError
    if how == "wait":
        while not worker.stopping:
            signal.pause()
        raise Interrupted(5)
    return {"steps": 3}

sys.exit(live(Path(sys.argv[1]), work))
"""


@pytest.fixture
def recipe() -> Recipe:
    return parse(RECIPE)


@pytest.fixture
def make_run(tmp_path: Path, recipe: Recipe) -> Callable[..., Run]:
    """Make a run folder in ``tmp_path`` with these events, each ``(type, fields)``."""

    def make(name: str = "20261124-1412-shop", *events: tuple[str, dict], kind: str = "runs") -> Run:
        folder = tmp_path / kind / name
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(dump(recipe))
        if events:
            writer = EventWriter(folder)
            for type, fields in events:
                writer.emit(type, **fields)
            writer.close()
        return Run(folder)

    return make


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch a worker that does what the request's ``how`` says, under the real life of a worker."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fake_worker.py").write_text(WORKER)
    paths = [str(tmp_path / "modules"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(launch.MODULES, "train", "fake_worker")
