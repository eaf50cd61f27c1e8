"""Run the command line in this process."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from in_process_workers import workers_in_process

from mlxtune.cli.main import main

__all__ = ["workers_in_process"]


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


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
