"""Single-fault cases: a child process trains until the fault, another resumes, and the result must equal an undisturbed run.

On Linux, the children are forked, which takes a tenth of a second. On macOS, a process that has imported MLX cannot be forked, so the
children are new processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import small
from operations import SAME, WRITING, How, Operations, leftovers

from mlxtune.core.hashing import sha256_file
from mlxtune.runs import events
from mlxtune.runs.registry import Run
from mlxtune.runs.status import STARTING_FOR
from mlxtune.runs.worker import run_worker
from mlxtune.training import checkpoint, setup, worker

METHOD: Literal["fork", "spawn"] = "spawn" if sys.platform == "darwin" or os.environ.get("MLXTUNE_SPAWN_FAULTS") else "fork"


@dataclass
class Report:
    """Counts of the cases that ran, and the failures found."""

    operations: int = 0
    killed: int = 0
    full: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run_all(folder: Path, share: int, shares: int) -> Report:
    """Run once undisturbed, then every ``shares``-th case starting at ``share``."""
    start, report = time.perf_counter(), Report()
    quiet = _fresh(folder / "quiet")
    assert os.waitstatus_to_exitcode(_train(quiet, note=folder / "names.json")) == 0, Run(quiet).log_tail(20)
    names: list[str] = json.loads((folder / "names.json").read_text())
    expected = _end(quiet)
    report.operations = len(names)
    chosen: list[tuple[int, How]] = []
    for at, name in enumerate(names, 1):
        if name not in SAME:
            chosen.append((at, "kill"))
        if name in WRITING:
            chosen += [(at, "half"), (at, "full")]
    for at, how in chosen[share::shares]:
        case = _fresh(folder / f"{at}-{how}")
        try:
            (_full if how == "full" else _killed)(case, at, how)
            _resumed(case, expected)
        except AssertionError as error:
            report.wrong.append(f"{how} at {at} ({names[at - 1]}): {error}")
        else:
            shutil.rmtree(case.parent)
        report.full += how == "full"
        report.killed += how != "full"
    report.seconds = time.perf_counter() - start
    return report


def _killed(run: Path, at: int, how: How) -> None:
    """Kill the run at operation ``at``; it must be reported as crashed with all reported progress saved."""
    status = _train(run, at, how)
    assert os.WIFSIGNALED(status), f"ended with {status} and was not killed"
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    state = Run(run).state()
    run_status = Run(run).status(state, now=time.time() + STARTING_FOR + 1)
    assert run_status == "crashed", run_status
    _nothing_lost(run)
    assert not checkpoint.damaged_folders(run), checkpoint.damaged_folders(run)


def _full(run: Path, at: int, how: How) -> None:
    """Fill the disk from operation ``at`` on; the run must exit with code 4 and a clear message."""
    code = os.waitstatus_to_exitcode(_train(run, at, how))
    log = "\n".join(Run(run).log_tail(40))
    assert code == 4, f"exit code {code}: {log}"
    assert "The disk is full" in log, log
    assert "Traceback" not in log, log
    _nothing_lost(run)


def _nothing_lost(run: Path) -> None:
    state, newest = Run(run).state(), checkpoint.newest(run)
    saved = newest.step if newest else 0
    assert saved >= max(state.checkpoints, default=0), f"checkpoint {saved}, reported {state.checkpoints}"
    assert state.step - saved <= 1, f"checkpoint {saved} at step {state.step}"


def _resumed(run: Path, expected: dict[str, Any]) -> None:
    newest = checkpoint.newest(run)
    code = os.waitstatus_to_exitcode(_train(run))
    assert code == 0, f"exit code {code}: {Run(run).log_tail(20)}"
    log = events.read_all(run)
    assert [event["seq"] for event in log] == list(range(len(log))), "numbers do not follow"
    start = max(at for at, event in enumerate(log) if event["type"] in ("run.started", "run.resumed"))
    assert log[start].get("step", 0) == (newest.step if newest else 0), log[start]
    again = [event["step"] for event in log[start:] if event["type"] == "step"]
    assert again == list(range(again[0], small.STEPS + 1)) if again else newest and newest.step == small.STEPS, again
    own = _end(run)
    assert own == expected, {
        name: (own.get(name), expected.get(name)) for name in own | expected if own.get(name) != expected.get(name)
    }


def _end(run: Path) -> dict[str, Any]:
    """Return the final state of a run without times: the sha256 of its files and its folded events."""
    state, newest = Run(run).state(), checkpoint.newest(run)
    assert newest is not None
    results = [run / "certificate.json", run / "data.json", run / "adapter" / "adapters.safetensors"]
    return {
        **{str(path.relative_to(run)): sha256_file(path) for path in (*newest.folder.iterdir(), *results)},
        "steps": [(item.step, item.loss, item.rate) for item in state.steps],
        "validations": [(item.step, item.loss) for item in state.validations],
        "summary": state.summary,
        "warnings": state.warnings,
        "status": Run(run).status(state),
        "half-written": leftovers(run),
    }


def _fresh(parent: Path) -> Path:
    folder = parent / "20261124-1412-small"
    small.prepare(folder)
    (parent / "temp").mkdir()
    return folder


def _train(run: Path, at: int = 0, how: How = "kill", note: Path | None = None) -> int:
    """Run the worker of ``run`` in a child and return its ``os.waitpid`` status; write its operation names to ``note``."""
    if METHOD == "spawn":
        command = [sys.executable, str(Path(__file__).with_name("driver.py")), "child", str(run), str(at), how, str(note or "")]
        return os.waitpid(os.posix_spawn(sys.executable, command, os.environ), 0)[1]
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        train(run, at, how, note)
    finally:
        os._exit(70)


def train(run: Path, at: int, how: How, note: Path | None) -> NoReturn:
    """Run the worker of ``run`` in this process, with a fault, and exit."""
    os.environ["MLXTUNE_HOME"] = str(run.parent / "home")
    tempfile.tempdir = str(run.parent / "temp")
    log = os.open(run / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    setup.prepare = small.assemble
    operations = Operations(at, how)
    operations.install()
    code = run_worker(run, worker.lead)
    if note:
        note.write_text(json.dumps(operations.names))
    sys.stderr.flush()
    os._exit(code)
