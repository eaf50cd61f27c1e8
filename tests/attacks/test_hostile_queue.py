"""A ``queue.jsonl`` that another program wrote: no line blocks the queue, or starts what ``queue add`` refuses."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from cli.conftest import cli as cli
from cli.conftest import cwd as cwd

from mlxtune.cli import queue as verb
from mlxtune.core.errors import InputError
from mlxtune.runs.queue import FILE, Queue

Cli = Callable[..., Any]

HOSTILE = {
    "empty": [], "no word": [""], "NUL": ["train", "a\0b"], "surrogate": ["train", "\ud800"], "refused verb": ["serve", "last"],
    "unknown verb": ["rm", "-rf", "x"], "group only": ["data"], "option": ["--help"],
}  # fmt: skip


@pytest.mark.parametrize("command", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_command_fails_and_the_queue_goes_on(cli, cwd, monkeypatch, command):
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(verb, "_call", lambda *command: (calls.append(command), (0, ""))[1])
    queue = Queue(cwd)
    queue.add(command)
    queue.add(("export", "mlx", "last"))
    assert cli("queue", "list").code == 0
    assert cli("queue", "run").code == 1
    assert calls == [("export", "mlx", "last")]
    first, second = queue.entries()
    assert (first.status, second.status) == ("failed", "done")
    assert "cannot be queued" in first.message
    assert cli("queue", "list").code == 0


@pytest.mark.parametrize("run", ["/etc", "\0", "x" * 5000, "../../elsewhere", "runs/../.."])
def test_a_run_outside_of_the_workspace_is_not_resumed(cli, cwd, monkeypatch, run):
    monkeypatch.setattr(verb, "_call", lambda *command: pytest.fail(str(command)))
    queue = Queue(cwd)
    queue.start(queue.add(("train", "x.toml")), run)
    assert cli("queue", "run").code == 1
    assert queue.entries()[0].message == "its run was removed"


def test_lines_that_are_no_entries_are_ignored(cli, cwd):
    lines = ["[" * 100_000, '{"a": ' * 100_000, "9" * 5000, "null", '{"type": "added", "number": 1, "command": [[["x"]]]}',
             '{"type": "started", "number": 7, "run": "x"}', '{"type": "added", "number": "1", "command": []}', "\x00"]  # fmt: skip
    (cwd / FILE).write_text("".join(line + "\n" for line in lines))
    assert "The queue is empty." in cli("queue", "list").out
    assert "The queue is empty." in cli("queue", "run").out


def test_a_pipe_is_not_waited_for(cli, cwd):
    os.mkfifo(cwd / FILE)
    for arguments in (("list",), ("add", "export", "mlx"), ("run",), ("clear",)):
        result = cli("queue", *arguments)
        assert (result.code, "is not a regular file" in result.err) == (2, True), arguments
    with pytest.raises(InputError):
        Queue(cwd).add(("train", "x"))


def test_a_queue_whose_file_is_deleted_ends(cli, cwd, monkeypatch):
    queue = Queue(cwd)
    queue.add(("export", "mlx", "last"))
    monkeypatch.setattr(verb, "_call", lambda *command: ((cwd / FILE).unlink(), (0, ""))[1])
    result = cli("queue", "run")
    assert result.code == 0, result.err
    assert queue.entries() == []
