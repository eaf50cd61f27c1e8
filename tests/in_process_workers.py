"""Run the workers of runs and evaluations in the process of the tests, since every new process would load MLX again."""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.files import write_json
from mlxtune.models.cpu import blas
from mlxtune.recipe import Recipe, dump
from mlxtune.runs import launch, registry
from mlxtune.runs.worker import Worker


class InProcessWorker:
    """A stand-in for ``start_detached`` that runs a worker to its end."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.pid = os.getpid()
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.getsignal(number) for number in numbers]
        arguments, sys.argv = sys.argv, command[3:]
        try:
            with log.open("a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                runpy.run_module(command[3], run_name="__main__", alter_sys=False)
        except SystemExit as end:
            self.returncode = int(end.code or 0)
        finally:
            sys.argv = arguments
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def poll(self) -> int:
        return self.returncode


def create_run(workspace: Path, kind: str, recipe: Recipe, **request: Any) -> registry.Run:
    """Create a run whose worker is not started."""
    run = registry.create(workspace, kind, recipe.name)
    (run.folder / "recipe.toml").write_text(dump(recipe))
    write_json(run.folder / registry.LAUNCH_FILE, {"request": request})
    return run


def stopping(worker: Worker, after: int) -> Worker:
    """Return ``worker``, stopped by the user after a number of steps."""
    emit: Callable[..., Any] = worker.emit

    def emit_and_stop(type: str, **fields: Any) -> None:
        emit(type, **fields)
        if type == "step" and fields["step"] >= after:
            worker._stop.set()

    worker.emit = emit_and_stop
    return worker


def run_workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the workers that are started from now on in this process."""
    monkeypatch.setattr(blas, "preload", lambda: "a BLAS")  # already loaded
    monkeypatch.setattr(launch, "start_detached", InProcessWorker)


@pytest.fixture
def workers_in_process(rows_in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the workers, and measure rows, in this process. Tests of the processes start real ones."""
    run_workers_here(monkeypatch)
