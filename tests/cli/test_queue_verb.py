import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from mlxtune.cli import queue as verb
from mlxtune.cli.main import main
from mlxtune.core import files
from mlxtune.runs.queue import Queue

pytestmark = pytest.mark.slow

SMALL = ("--set", "training.epochs=0", "--set", "training.steps=2", "--set", "evaluation.regression=")


@pytest.fixture
def commands_in_process(workers_in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands of a queue in this process; the tests of killed queues start real ones."""

    def call(*command: str) -> tuple[int, str]:
        with monkeypatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
            patch.setattr(sys, "argv", ["mlxtune", *command])
            with pytest.raises(SystemExit) as ended:
                main()
        return int(ended.value.code or 0), errors.getvalue() if ended.value.code else ""

    monkeypatch.setattr(verb, "_call", call)


@pytest.mark.usefixtures("commands_in_process", "few_off_task_prompts")
def test_a_night(cli, workspace):
    script = workspace / "notify.py"
    script.write_text("import sys; open('notified', 'w').write(sys.argv[1])")
    (files.home() / "settings.toml").write_text(f"notify_command = '{sys.executable} {script}'\n")
    try:
        assert cli("queue", "add", "train", "recipes/tiny.toml", *SMALL).out.startswith("Added as number 1.")
        cli("queue", "add", "train", "recipes/tiny.toml", "--set", "data.source=missing.jsonl")
        cli("queue", "add", "eval", "last")
        entries = cli("queue", "list", "--json").json["entries"]
        assert [(entry["number"], entry["status"]) for entry in entries] == [(1, "waiting"), (2, "waiting"), (3, "waiting")]
        result = cli("queue", "run")
        assert result.code == 1
        assert result.out.startswith("2 of 3 done, best: tiny, contract ")
        assert (workspace / "notified").read_text() == result.out.strip()
    finally:
        (files.home() / "settings.toml").unlink()
    first, second, third = Queue(workspace).entries()
    assert (first.status, second.status, third.status) == ("done", "failed", "done")
    assert "missing.jsonl" in second.message
    assert len(list(workspace.glob("evals/*/report.json"))) == 2
    assert "✗" in cli("queue", "list").out


def test_an_interrupted_queue_continues_its_run(cli, workspace, request):
    """The run has its own process, as it may still go on."""
    cli("queue", "add", "train", "recipes/tiny.toml")
    detached = cli("train", "recipes/tiny.toml", *SMALL, "--detach", "--json").json
    queue = Queue(workspace)
    queue.start(queue.entries()[0], detached["folder"])  # as if the queue's process had been killed here
    request.getfixturevalue("commands_in_process")
    assert cli("queue", "run").code == 0
    assert len(list(workspace.glob("runs/*"))) == 1
    assert len(list(workspace.glob("evals/*/report.json"))) == 1


def test_commands_are_checked_and_cleared(refused, cli, cwd):
    assert "serve cannot be queued." in cli("queue", "add", "serve").err
    assert cli("queue", "add", "train").code == 2
    assert cli("queue", "add", "train", "x.toml", "--unknown").code == 2
    assert "The queue is empty." in cli("queue", "list").out
    for name in ("x.toml", "y.toml"):
        cli("queue", "add", "train", name)
    assert "Removed 1 command." in cli("queue", "remove", "1").out
    refused(("queue", "remove", "1"), "No command with number 1 is waiting.")
    assert "y.toml" in cli("queue", "list").out
    assert "Removed 1 command." in cli("queue", "clear").out
    assert "The queue is empty." in cli("queue", "run").out


def test_several_seeds_are_one_entry_that_runs_to_its_end(cli, cwd, monkeypatch):
    calls = []
    monkeypatch.setattr(verb, "_call", lambda *command: (calls.append(command), (0, ""))[1])
    cli("queue", "add", "eval", "x.toml", "--seeds", "3")
    assert cli("queue", "run").code == 0
    assert calls == [("eval", "x.toml", "--seeds", "3")]
