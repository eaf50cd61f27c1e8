"""A workspace may contain ``random.py`` or ``rapidfuzz.py``, the user's own or from an attacker: no process of mlxtune executes it."""

import ast
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest
from exhaustive import cases
from package_trees import PACKAGE, package_nodes
from tui.terminal import terminal
from waiting import PATIENCE

from mlxtune.cli.main import VERBS
from mlxtune.core.child_process import python_environment
from mlxtune.tui import saved_state
from mlxtune.tui.rooms import ROOMS

pytestmark = pytest.mark.slow

SPAWNING = {  # the only files that start programs
    "cli/queue.py", "core/child_process.py", "runs/worker.py", "models/bundled/install.py", "models/cpu/blas.py",
    "cli/export.py",  # ollama create
    "evaluation/signature.py",  # ssh-keygen
    "adapters/export/llama_server.py",  # llama.cpp
    "tui/terminal.py",  # the user's own commands
}  # fmt: skip


@pytest.fixture
def planted(workspace: Path, fresh_home: Path) -> Path:
    """The workspace with a module for every name that could be imported. Each records that it was executed."""
    marker = workspace.parent / "executed"
    installed = [path.name.partition(".")[0] for path in Path(sysconfig.get_path("purelib")).iterdir()]
    names = {name for name in (*sys.stdlib_module_names, *installed) if name.isidentifier()} - {"mlxtune"}
    trap = workspace / "trap.py"
    trap.write_text(f"open({str(marker)!r}, 'a').write(__name__ + ' ')\nraise ImportError('executed')\n")
    for name in names:
        (workspace / f"{name}.py").symlink_to(trap)
    return workspace


def executed(workspace: Path) -> str:
    marker = workspace.parent / "executed"
    return marker.read_text() if marker.exists() else ""


def test_the_traps_work(planted):
    subprocess.run([sys.executable, "-m", "trap"], cwd=planted, capture_output=True)
    assert executed(planted)


SMALL = "--set training.steps=2 --set evaluation.rows=4 --set evaluation.regression= --set data.holdout=0.2"
COMMANDS = {  # in the order in which a user would run them
    "docs": "mac", "doctor": "", "selftest": "", "models": "", "init": "new", "advise": "recipes/tiny.toml", "data": "check chat.jsonl",
    "data apply": 'chat.jsonl "replace a b" --preview', "data review": "chat.jsonl --list", "recipe": "import nothing.yaml",
    "plan": "recipes/tiny.toml --probe", "train": f"recipes/tiny.toml {SMALL}", "eval": f"last {SMALL}", "runs": "show last",
    "compare": "last last", "verify": "last", "blind": "last", "judge": "last --local tiny --n 1", "score": "nothing.jsonl",
    "search": f"recipes/tiny.toml --trials 1 {SMALL}", "data generate": "recipes/tiny.toml --local tiny --rows 1",
    "export": "mlx last", "verify-export": "last --endpoint http://127.0.0.1:9", "adapters": "", "adapters push": "last nobody/nothing",
    "adapters pull": "nobody/nothing", "chat": "last", "queue": "list",
    "improve": "last", "report": "last", "mcp": "",
}  # fmt: skip
ELSEWHERE = {
    "open",
    "serve",
    "bench",
    "demo",
}  # of these, the first two are below; bench and demo start the processes of train and eval


def run(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mlxtune", *arguments]
    environment = python_environment() | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(command, cwd=workspace, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_commands_and_their_processes_do_not_import_from_the_workspace(planted):
    for arguments in ("data check chat.jsonl", f"train recipes/tiny.toml {SMALL}", "chat last"):
        result = run(planted, *shlex.split(arguments))
        assert result.returncode in (0, 1), result.stderr
        assert executed(planted) == "", arguments


@pytest.mark.exhaustive
def test_no_command_imports_from_the_workspace(planted):
    assert set(COMMANDS) >= set(VERBS) - ELSEWHERE
    for name, arguments in COMMANDS.items():
        result = run(planted, *name.split(), *shlex.split(arguments))
        assert "Internal error" not in result.stderr, result.stderr
        assert executed(planted) == "", name


@pytest.mark.exhaustive
def test_the_server_does_not_import_from_the_workspace(planted):
    command = [sys.executable, "-P", "-m", "mlxtune", "serve", "tiny", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=planted, env=python_environment(), stdout=subprocess.PIPE, text=True) as server:
        document = json.loads("".join(itertools.takewhile(lambda line: line != "}\n", server.stdout)) + "}")
        with urllib.request.urlopen(f"{document['url']}/models") as answer:  # once it answers, it handles signals
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    assert executed(planted) == ""


PROCESSES = {"review": "trained", "plan": "epoch"}  # what these rooms show when their child process has answered


@pytest.mark.parametrize("room", cases(ROOMS))
def test_the_app_and_its_processes_do_not_import_from_the_workspace(planted, room):
    saved_state.save(planted, {"room": room})
    with terminal(planted, Path(os.environ["MLXTUNE_HOME"])) as screen:
        screen.until(PROCESSES.get(room, ROOMS[room].name))
        screen.press("\x11")
        assert screen.end() == 0
    assert executed(planted) == ""


def test_every_program_is_started_by_the_one_protocol():
    starts = set()
    for path, nodes in package_nodes().items():
        for node in nodes:
            match node:
                case ast.Attribute(ast.Name("subprocess"), "run" | "Popen" | "call" | "check_call" | "check_output"):
                    starts.add(path.relative_to(PACKAGE).as_posix())
                case ast.Attribute(ast.Name("os"), name) if name.startswith(("exec", "spawn", "posix_spawn", "system", "popen")):
                    starts.add(path.relative_to(PACKAGE).as_posix())
                case ast.Constant("-m") | ast.Constant("-c"):
                    assert path.name == "child_process.py", path
    assert starts == SPAWNING
