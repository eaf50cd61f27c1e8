"""A workspace may contain ``random.py`` or ``rapidfuzz.py``, the user's own or from an attacker: no process of mlxtune executes it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tui.terminal import terminal

from mlxtune.core import app_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPAWNING = {  # the only files that start programs
    "cli/queue.py", "core/child_process.py", "runs/worker.py", "runs/sleep.py", "models/bundled/install.py", "models/cpu/blas.py",
    "cli/export.py",  # ollama create
    "tui/app.py",  # the user's own commands
}  # fmt: skip


@pytest.fixture
def planted(workspace: Path) -> Path:
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


def test_the_traps_work(planted: Path) -> None:
    subprocess.run([sys.executable, "-m", "trap"], cwd=planted, capture_output=True)
    assert executed(planted)


def test_commands_and_their_processes_do_not_import_from_the_workspace(planted: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    commands = ["data check chat.jsonl", "train recipes/tiny.toml --set training.steps=2", "chat last"]
    for arguments in commands:
        command = [sys.executable, "-P", "-m", "mlxtune", *arguments.split()]
        result = subprocess.run(command, cwd=planted, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert result.returncode in (0, 1), result.stderr
        assert executed(planted) == "", arguments


@pytest.mark.parametrize(("room", "shown"), [("review", "trained"), ("plan", "epoch")])
def test_the_app_and_its_processes_do_not_import_from_the_workspace(planted: Path, room: str, shown: str) -> None:
    app_state.save(planted, {"room": room})
    with terminal(planted, Path(os.environ["MLXTUNE_HOME"])) as screen:
        screen.until(shown)
        screen.press("q")
        assert screen.end() == 0
    assert executed(planted) == ""


def test_every_program_is_started_by_the_one_protocol() -> None:
    starts = set()
    for path in (ROOT / "mlxtune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(ast.Name("subprocess"), "run" | "Popen" | "call" | "check_call" | "check_output"):
                    starts.add(path.relative_to(ROOT / "mlxtune").as_posix())
                case ast.Attribute(ast.Name("os"), name) if name.startswith(("exec", "spawn", "posix_spawn", "system", "popen")):
                    starts.add(path.relative_to(ROOT / "mlxtune").as_posix())
                case ast.Constant("-m") | ast.Constant("-c"):
                    assert path.name == "child_process.py", path
    assert starts == SPAWNING
