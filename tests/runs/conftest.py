"""Run folders, and a worker that does not train."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.recipe import Recipe, dump, parse
from mlxtune.runs import registry
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run

RECIPE = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'

WORKER = """\
import os, signal, sys, time
from pathlib import Path
from mlxtune.core.errors import DataError, Interrupted
from mlxtune.runs import events, launch, worker as worker_module
from mlxtune.runs.worker import run_worker

def work(worker):
    behavior = worker.request.get("behavior", "finish")
    if behavior == "silent":
        print("no events", flush=True)
        os._exit(7)
    worker.report_start("train", **worker.request.get("begin", {}))
    if behavior == "bad data":
        raise DataError("line 3 is bad.", hint="Fix it.")
    if behavior == "fault":
        raise RuntimeError("oops")
    if behavior == "memory":
        raise MemoryError
    if behavior == "gpu error" and len(worker.request["messages"]) > (attempt := int(os.environ.get("MLXTUNE_RESTARTED", 0))):
        raise RuntimeError(worker.request["messages"][attempt])
    if behavior == "busy machine":
        os.getloadavg = lambda: (999.0, 0.0, 0.0)
        while not any(event["type"] == "warning" for event in events.read_all(worker.folder)):
            time.sleep(0.01)
    if behavior == "busy":
        time.sleep(600)  # as if computing
    if behavior == "wait":
        while not worker.stopping:
            signal.pause()
        raise Interrupted(5)
    names = worker.request.get("names")
    return {name: os.environ.get(name) for name in names} if names else {"steps": 3}

worker_module.HEARTBEAT = launch.read_request(Path(sys.argv[1])).get("heartbeat", worker_module.HEARTBEAT)
worker_module.CAFFEINATE = launch.read_request(Path(sys.argv[1])).get("caffeinate", worker_module.CAFFEINATE)
sys.exit(run_worker(Path(sys.argv[1]), work))
"""


@pytest.fixture
def recipe() -> Recipe:
    return parse(RECIPE)


@pytest.fixture
def make_run(tmp_path: Path, recipe: Recipe) -> Callable[..., Run]:
    """Create a run folder in ``tmp_path`` with events ``(type, fields)``."""

    def make(name: str = "20261124-1412-shop", *events: tuple[str, dict], kind: str = "runs") -> Run:
        folder = tmp_path / kind / name
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(dump(recipe))
        if events:
            with EventWriter(folder) as writer:
                for type, fields in events:
                    writer.emit(type, **fields)
        return Run(folder)

    return make


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch workers that do what the request's ``behavior`` says, in the real worker process."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fake_worker.py").write_text(WORKER)
    paths = [str(tmp_path / "modules"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(registry.RUN_KINDS, "train", replace(registry.RUN_KINDS["train"], module="fake_worker"))
