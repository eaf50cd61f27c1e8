"""Single-fault cases: a child process works until the fault, another resumes, and the result must equal an undisturbed run.

A kill leaves the files as they are, so few of the children are killed: one of them copies its files at each operation where another
case would have killed it, and a further child resumes each copy.

On Linux, the children are forked, which takes a tenth of a second. On macOS, a process that has imported MLX cannot be forked, so the
children are new processes.
"""

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
import small_generation
import small_search
from operations import SAME, WRITING, How, Operations
from scenario import Scenario

from mlxtune.runs import events, worker
from mlxtune.runs.registry import STARTING_FOR, Run
from mlxtune.runs.worker import run_worker

SCENARIOS = {"training": small.SCENARIO, "search": small_search.SCENARIO, "generation": small_generation.SCENARIO}
METHOD: Literal["fork", "spawn"] = "spawn" if sys.platform == "darwin" or os.environ.get("MLXTUNE_SPAWN_FAULTS") else "fork"

DENSITY = 8  # times as many of a scenario's final operations are tried
REAL = 16  # one of so many kills is a real one
COPIES = "copies.json"


@dataclass
class Report:
    """Counts of the cases that ran, and the failures found."""

    operations: int = 0
    killed: int = 0
    full: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run_all(name: str, folder: Path, share: int, shares: int) -> Report:
    """Run the scenario ``name`` once undisturbed, then every ``shares``-th case starting at ``share``, and more of the final ones."""
    start, report, scenario = time.perf_counter(), Report(), SCENARIOS[name]
    quiet = _fresh(scenario, folder / "quiet")
    assert os.waitstatus_to_exitcode(_start(name, quiet, note=folder / "names.json")) == 0, Run(quiet).log_tail(20)
    names: list[str] = json.loads((folder / "names.json").read_text())
    expected = scenario.end(quiet)
    report.operations = len(names)
    chosen: list[tuple[int, How]] = []
    for at, operation in enumerate(names, 1):
        if operation not in SAME:
            chosen.append((at, "kill"))
        if operation in WRITING:
            chosen += [(at, "half"), (at, "full")]
    final = [(at, how) for at, how in chosen if at > len(names) - scenario.final]
    faults = list(dict.fromkeys([*chosen[share::shares], *final[share :: max(1, shares // DENSITY)]]))
    kills = [fault for fault in faults if fault[1] != "full"]
    run = _fresh(scenario, folder / "case")
    if copies := [fault for number, fault in enumerate(kills) if number % REAL]:
        (folder / COPIES).write_text(json.dumps(copies))
        assert os.waitstatus_to_exitcode(_start(name, run, how="copy", note=folder / COPIES)) == 0, Run(run).log_tail(20)
    for at, how in faults:
        shutil.rmtree(folder / "case")
        try:
            if (at, how) in copies:
                (folder / f"{at}-{how}").rename(folder / "case")
                _crashed(name, run)
            else:
                _fresh(scenario, folder / "case")
                (_full if how == "full" else _killed)(name, run, at, how)
            _resumed(name, run, expected)
        except AssertionError as error:
            report.wrong.append(f"{how} at {at} ({names[at - 1]}): {error}")
        report.full += how == "full"
        report.killed += how != "full"
    report.seconds = time.perf_counter() - start
    return report


def _killed(name: str, run: Path, at: int, how: How) -> None:
    """Kill the run at operation ``at``; it must be reported as crashed with all reported progress saved."""
    status = _start(name, run, at, how)
    assert os.WIFSIGNALED(status), f"ended with {status} and was not killed"
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    _crashed(name, run)


def _crashed(name: str, run: Path) -> None:
    state = Run(run).state()
    run_status = Run(run).status(state, now=time.time() + STARTING_FOR + 1)
    assert run_status == "crashed", run_status
    SCENARIOS[name].check(run)


def _full(name: str, run: Path, at: int, how: How) -> None:
    """Fill the disk from operation ``at`` on; the run must exit with code 4 and a clear message."""
    code = os.waitstatus_to_exitcode(_start(name, run, at, how))
    log = "\n".join(Run(run).log_tail(40))
    assert code == 4, f"exit code {code}: {log}"
    assert "The disk is full" in log, log
    assert "Traceback" not in log, log
    SCENARIOS[name].check(run)


def _resumed(name: str, run: Path, expected: dict[str, Any]) -> None:
    code = os.waitstatus_to_exitcode(_start(name, run))
    assert code == 0, f"exit code {code}: {Run(run).log_tail(20)}"
    log = events.read_all(run)
    assert [event["seq"] for event in log] == list(range(len(log))), "numbers do not follow"
    own = SCENARIOS[name].end(run)
    assert own == expected, {key: (own.get(key), expected.get(key)) for key in own | expected if own.get(key) != expected.get(key)}


def _fresh(scenario: Scenario, parent: Path) -> Path:
    """Create a workspace in ``parent``, and return the folder of its run."""
    folder = parent / scenario.folder / "20261124-1412-small"
    scenario.prepare(folder)
    (parent / "temp").mkdir()
    return folder


def _start(name: str, run: Path, at: int = 0, how: How = "kill", note: Path | None = None) -> int:
    """Run the worker of ``run`` in a child and return its ``os.waitpid`` status.

    It writes the names of its operations to ``note``, or reads there, if ``how`` is ``copy``, at which of them to copy the workspace.
    """
    if METHOD == "spawn":
        command = [
            sys.executable,
            str(Path(__file__).with_name("driver.py")),
            "child",
            name,
            str(run),
            str(at),
            how,
            str(note or ""),
        ]
        return os.waitpid(os.posix_spawn(sys.executable, command, os.environ), 0)[1]
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work(name, run, at, how, note)
    finally:
        os._exit(70)


def work(name: str, run: Path, at: int, how: How, note: Path | None) -> NoReturn:
    """Run the worker of ``run`` in this process, with a fault, and exit."""
    workspace = run.parent.parent
    os.environ["MLXTUNE_HOME"] = str(workspace / "home")
    tempfile.tempdir = str(workspace / "temp")
    log = os.open(run / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    worker.HEARTBEAT = 1e6  # its events would change the numbers of the operations
    lead = SCENARIOS[name].install()
    operations = Operations(at, how)
    if how == "copy" and note:
        kills = {tuple(fault) for fault in json.loads(note.read_text())}

        def copy(how: How) -> None:
            if (at := len(operations.names) + (how == "kill"), how) in kills:
                shutil.copytree(workspace, workspace.with_name(f"{at}-{how}"))

        operations.before, operations.halfway = lambda: copy("kill"), lambda: copy("half")
    operations.install()
    code = run_worker(run, lead)
    if note and how != "copy":
        note.write_text(json.dumps(operations.names))
    sys.stderr.flush()
    os._exit(code)
