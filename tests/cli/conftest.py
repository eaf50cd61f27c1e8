"""Run the command line in this process."""

import contextlib
import io
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxtune.cli.main import main
from mlxtune.models.cpu import blas
from mlxtune.runs import launch


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of commands."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Call ``mlxtune`` with arguments and standard input."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(sys, "argv", ["mlxtune", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        code = exit_info.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture
def ok(cli: Callable[..., Result]) -> Callable[..., Result]:
    """Call ``mlxtune``, which must succeed."""

    def call(*arguments: str, stdin: str = "") -> Result:
        result = cli(*arguments, stdin=stdin)
        assert result.code == 0, result.err
        return result

    return call


@pytest.fixture
def refused(cli: Callable[..., Result]) -> Callable[[Sequence[str], str], Result]:
    """Assert that a command is refused with one message that has the words between bars, and prints nothing else."""

    def check(command: Sequence[str], words: str) -> Result:
        result = cli(*command)
        assert (result.code, result.out) == (2, ""), result
        message = " ".join(result.err.split())
        for part in words.split(" | "):
            assert part in message
        assert result.err.count("✗") == 1, message
        assert "Traceback" not in message
        assert "Internal error" not in message
        return result

    return check


class _InProcessWorker:
    """A stand-in for ``start_detached`` that runs a worker in this process, since every new process would load MLX again."""

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


@pytest.fixture
def workers_in_process(rows_in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the workers of runs and evaluations, and measure rows, in this process. Tests of the processes start real ones."""
    monkeypatch.setattr(blas, "preload", lambda: "a BLAS")  # already loaded
    monkeypatch.setattr(launch, "start_detached", _InProcessWorker)
